"""`kontext reconcile`, and runs whose answers hold what no honest server sends."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tests.cli.conftest import Kontext
from tests.cli.provider import Provider
from tests.segmind.gateway import Reply

Manifest = Callable[..., Path]


def rows(*prompts: str) -> list[dict[str, object]]:
    return [{"id": prompt, "prompt": prompt} for prompt in prompts]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


DAMAGED = b"".join(
    [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 36, 8, 2, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(b"")),
        chunk(b"IEND", b""),
    ]
)


def test_hostile_answers_cost_their_own_rows_and_end_no_run(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    answers = {
        "emoji": Reply(400, b'{"error":"x \\ud83d"}'),
        "deep": Reply(200, b"[" * 100_000),
        "damaged": Reply(200, DAMAGED, {"x-cost": "0.1"}),
        "dear": Reply(500, b'{"error":"no"}', {"x-cost": "1e308", "Retry-After": "3600"}),
    }
    provider.fault = lambda body, times: answers.get(str(body["prompt"])) if times == 1 else None
    manifest(rows(*answers, "a fox"))
    done = kontext("run", "rows.csv", "--yes", KONTEXT_UNKNOWN_RETRIES="1")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "the picture" in done.stderr
    assert "is damaged" in done.stderr
    table = pd.read_parquet(tmp_path / "out" / "metadata").set_index("id")
    assert table["status"].to_dict() == {
        "emoji": "failed",
        "deep": "succeeded",
        "damaged": "unknown",
        "dear": "succeeded",
        "a fox": "succeeded",
    }
    assert table["error"]["emoji"] == "x \ufffd"
    assert round(table["cost_usd"].sum(), 6) == 0.4
    assert table["possibly_charged_usd"]["deep"] == 0.1
    # The damaged picture is asked for again, and both are paid.
    assert kontext("run", "rows.csv", "--yes").returncode == 1
    table = pd.read_parquet(tmp_path / "out" / "metadata").set_index("id")
    assert (table["status"]["damaged"], round(table["cost_usd"]["damaged"], 6)) == ("succeeded", 0.2)


def test_lost_answers_are_listed_and_settled(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.fault = lambda body, _times: Reply(reset=True) if body["prompt"] == "lost" else None
    manifest(rows("lost", "a fox"))
    assert kontext("run", "rows.csv", "--yes", KONTEXT_UNKNOWN_RETRIES="0").returncode == 1
    listed = kontext("reconcile")
    assert listed.returncode == 1
    assert "The cost of 1 attempt is not known" in listed.stdout
    number = next(line.split()[1] for line in listed.stdout.splitlines() if "connection_lost" in line)
    usage = tmp_path / "usage.csv"
    usage.write_text("attempt,cost\nx,1\n")
    wrong = kontext("reconcile", "--usage", "usage.csv")
    assert (wrong.returncode, "Nothing was changed." in wrong.stderr) == (2, True)
    usage.write_text(f"attempt,cost\n{number},0\n")
    done = kontext("reconcile", "--usage", "usage.csv")
    assert done.returncode == 0, done.stderr
    assert "0 attempts charged 0.00 USD, 1 not billed" in done.stdout
    assert "for 1 lost answer" not in kontext("status").stdout
    provider.fault = lambda _body, _times: None
    assert kontext("run", "rows.csv", "--yes", KONTEXT_UNKNOWN_RETRIES="0").returncode == 0


def test_a_reconciliation_reaches_the_table_at_the_next_run(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.fault = lambda _body, _times: Reply(reset=True)
    manifest(rows("lost"))
    run = ("run", "rows.csv", "--yes")
    assert kontext(*run, KONTEXT_UNKNOWN_RETRIES="0").returncode == 1
    (tmp_path / "usage.csv").write_text("attempt,cost\n1,0.07\n")
    assert kontext("reconcile", "--usage", "usage.csv").returncode == 0
    assert kontext(*run, KONTEXT_UNKNOWN_RETRIES="0").returncode == 1
    (row,) = pd.read_parquet(tmp_path / "out" / "metadata").to_dict("records")
    assert (row["cost_usd"], row["possibly_charged_usd"], provider.posted) == (0.07, 0.0, 1)
