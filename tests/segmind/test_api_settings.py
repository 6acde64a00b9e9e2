"""The key and the URLs of the API are checked by the settings, and nowhere else."""

from pathlib import Path

import pytest

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.settings import Settings, load_settings
from tests.segmind.conftest import KEY


@pytest.fixture(autouse=True)
def no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("SEGMIND_API_KEY", "SEGMIND_BASE_URL", "SEGMIND_UPLOAD_URL", "KONTEXT_BACKEND"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    "key", [f"{KEY}\r\nx: y", f"{KEY}\x00", "schlüssel", f"{KEY}\u200b", f"{KEY} {KEY}", f"{KEY}\x7f"]
)
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="SEGMIND_API_KEY") as caught:
        load_settings(api_key=key)
    assert KEY not in str(caught.value)
    assert "schl" not in str(caught.value)


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_a_blank_key_is_no_key(key: str) -> None:
    with pytest.raises(SettingsError, match="SEGMIND_API_KEY"):
        assert load_settings(api_key=key).key


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}"])
def test_blanks_around_a_key_are_left_out(key: str) -> None:
    assert load_settings(api_key=key).key == KEY


@pytest.mark.parametrize(
    "url",
    [
        "api.segmind.com",
        "ftp://api.segmind.com",
        "https://",
        "https://api.segmind.com?x=1",
        "https://api.segmind.com#x",
        "https://api.segmind.com:99999",
        "https://api.segmind.com:https",
        "https://api segmind.com",
        "https://api.segmind.com\\x",
        "https://[::1",
        "https://schlüssel.example.com",
    ],
)
@pytest.mark.parametrize("field", ["base_url", "upload_url"])
def test_a_url_that_cannot_be_used_is_refused(field: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"SEGMIND_{field.upper()} is .*http:// or https://"):
        load_settings(**{field: url})


@pytest.mark.parametrize(
    "url",
    ["https://user@host", "https://u:secret@host", "https://:secret@host", "https://@host", "u:secret@host"],
)
@pytest.mark.parametrize("field", ["base_url", "upload_url"])
def test_credentials_in_a_url_are_refused_without_being_shown(field: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"SEGMIND_{field.upper()}: .*user name or password") as caught:
        load_settings(**{field: url})
    assert "secret" not in str(caught.value)
    assert "host" not in str(caught.value)


def test_a_url_may_have_a_port_and_a_path() -> None:
    assert load_settings(base_url=" http://127.0.0.1:80/proxy/ ").base_url == "http://127.0.0.1:80/proxy"


def test_the_upload_url_follows_the_base_url_unless_set() -> None:
    settings: Settings = load_settings()
    assert settings.resolved_upload_url == "https://workflows-api.segmind.com/upload-asset"
    assert load_settings(base_url="http://a.test/").resolved_upload_url == "http://a.test/upload-asset"
    assert load_settings(upload_url="http://b.test/put").resolved_upload_url == "http://b.test/put"
