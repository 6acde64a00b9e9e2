"""`KONTEXT_ASPECT_RATIO` asks for no picture again that the ledger knows."""

from pathlib import Path

from PIL import Image

from tests.cli.conftest import Kontext
from tests.cli.provider import Provider


def test_the_setting_holds_for_new_rows_alone(kontext: Kontext, provider: Provider, tmp_path: Path) -> None:
    Image.new("RGB", (300, 600)).save(tmp_path / "p.png")
    rows = "prompt,input_image\nmake it night,p.png\n"
    (tmp_path / "m.csv").write_text(rows)
    assert kontext("run", "m.csv", "--yes").returncode == 0
    (tmp_path / "m.csv").write_text(rows + "make it snow,p.png\n")
    for changes in ({"KONTEXT_ASPECT_RATIO": "match_input_image"}, {}, {"KONTEXT_ASPECT_RATIO": "1:1"}):
        assert kontext("run", "m.csv", "--yes", **changes).returncode == 0
    sent = [body["aspect_ratio"] for body in provider.billed]
    assert sent == ["16:9", "match_input_image"]
