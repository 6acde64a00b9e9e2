"""What opening a ledger waits for: a server that restarts, a file that may be opened."""

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger.database import Database
from tests.descriptors import no_descriptors


def test_a_server_that_restarts_while_the_ledger_is_opened_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("kontext_pipeline.generation.ledger.connecting.time.sleep", waits.append)
    answers = [b"the database system is shutting down", b"the database system is starting up", b"no such role"]

    def serve(listener: socket.socket) -> None:
        for words in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                fields = b"SFATAL\0VFATAL\0C57P03\0M" + words + b"\0\0"
                connection.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        url = f"postgresql+psycopg2://u:hush@127.0.0.1:{listener.getsockname()[1]}/x?sslmode=disable&gssencmode=disable"
        with pytest.raises(LedgerError, match="no such role") as raised:
            Database(url)
        server.join()
    assert len(waits) == 2
    assert "hush" not in str(raised.value)


def test_a_ledger_waits_for_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(f"sqlite:///{tmp_path / 'other.db'}").close()  # Modules that are imported late open files too.
    with ExitStack() as full:
        monkeypatch.setattr("kontext_pipeline.generation.ledger.connecting.time.sleep", lambda _seconds: full.close())
        full.enter_context(no_descriptors())
        database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    database.close()
