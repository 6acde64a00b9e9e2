"""Where settings are read from, and where the ledger of a data directory lies."""

from contextlib import closing
from pathlib import Path

import pytest

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.settings import load_settings

KEY = "SG_0123456789abcdef"


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%2Fb", "a%20b", "a b", "a:b@c", "a&mode=ro"])
def test_the_ledger_lies_in_the_data_directory_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for data_dir in (name, f"file://{tmp_path / name}"):
        with closing(Database(load_settings(data_dir=data_dir).resolved_ledger_url)) as database:
            assert database.path == tmp_path / name / "ledger.db"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "ledger.db").stat().st_size > 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_file_of_settings_that_is_no_utf8_is_refused_and_not_shown(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(f"SEGMIND_API_KEY={KEY}\nKONTEXT_DATA_DIR=bücher\n".encode(encoding))
    with pytest.raises(SettingsError, match=r"\.env can't be read.*UTF-8") as raised:
        load_settings()
    assert KEY not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_byte_order_mark_hides_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KONTEXT_DATA_DIR", raising=False)
    Path(".env").write_text("KONTEXT_DATA_DIR=bücher\n", encoding="utf-8-sig")
    assert load_settings().data_dir == "bücher"
