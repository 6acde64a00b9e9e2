"""What the documents say of settings, commands and files is what the code does."""

import re
from pathlib import Path

import pytest

from kontext_pipeline import cli
from kontext_pipeline.settings import Settings, environment_variable, load_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md")])


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_the_settings_table_names_every_setting_with_its_meaning(name: str) -> None:
    variable, meaning = environment_variable(name), Settings.model_fields[name].description
    rows = (ROOT / "README.md").read_text().splitlines()
    [row] = [row for row in rows if row.startswith(f"| `{variable}` |")]
    assert row.endswith(f"| {meaning} |")
    default = Settings.model_fields[name].default
    if default not in (None, []):
        words = " ".join(default) if isinstance(default, list) else default
        said = f"`{words:g}`" if isinstance(words, float) else f"`{str(words).lower()}`"
        assert f"| {said} |" in row


def test_the_example_environment_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(environment_variable(name), raising=False)
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    monkeypatch.chdir(tmp_path)
    assert load_settings().backend == "sandbox"


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for command in cli.main.commands:
        assert f"`kontext {command}" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_pictures_of_the_ui_are_small_and_shown() -> None:
    """docs/screenshots.py takes them."""
    text = "".join(document.read_text() for document in DOCUMENTS)
    pictures = sorted(ROOT.glob("docs/ui-*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 300_000
        assert f"{picture.name})" in text


def test_the_tests_that_show_what_is_promised_exist() -> None:
    """docs/threats.md names test files, and tests and classes in them."""
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)(?:::(\w+))?`", (ROOT / "docs" / "threats.md").read_text())
    assert len(named) > 50
    for file, name in named:
        found = [path for known, path in files.items() if f"/{known}".endswith(f"/{file}")]
        assert len(found) == 1, file
        assert not name or re.search(rf"^ *(?:def|class) {name}\b", found[0].read_text(), re.MULTILINE), name


def test_the_glossary_has_at_most_twenty_words() -> None:
    glossary = (ROOT / "docs" / "architecture.md").read_text().partition("## Glossary")[2].partition("\n## ")[0]
    assert 10 < len(re.findall(r"^\| (?!word )\w", glossary, re.MULTILINE)) <= 20


def test_the_figures_fit_on_a_page() -> None:
    assert len((ROOT / "docs" / "performance.md").read_text().splitlines()) <= 80
