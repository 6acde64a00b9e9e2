"""The file of thresholds: what it may say, and which issues follow for which rows."""

from pathlib import Path

import pytest

from kontext_pipeline.dataset.quality.thresholds import LIMITS, Thresholds, read_thresholds
from kontext_pipeline.errors import SettingsError

NUMBERS = {
    "changed_share": 0.005,
    "mean_difference": 1.0,
    "input_distance": 0.0,
    "sharpness": 5.0,
    "clip_similarity": 0.6,
}


def of(tmp_path: Path, text: str) -> Thresholds:
    path = tmp_path / "quality.toml"
    path.write_text(text, encoding="utf-8")
    return read_thresholds(str(path))


def test_without_a_file_the_defaults_count() -> None:
    assert read_thresholds(None).issues(NUMBERS, {}) == ["blurry"]


def test_thresholds_are_changed_turned_off_and_added(tmp_path: Path) -> None:
    text = "unchanged = 0.01\nblurry = false\nlarge_change = 0.004\n[at_most]\nclip_similarity = 0.7\n"
    found = of(tmp_path, f"{text}[at_least]\nsharpness = 5\nnobody_measures_this = 0\n").issues(NUMBERS, {})
    assert found == ["unchanged", "large_change", "low_clip_similarity", "high_sharpness"]


def test_a_part_of_an_issue_that_is_off_turns_the_issue_off(tmp_path: Path) -> None:
    assert "unchanged" not in of(tmp_path, "unchanged = 0.01\nunchanged_mean_difference = false").issues(NUMBERS, {})


def test_thresholds_hang_on_a_column(tmp_path: Path) -> None:
    thresholds = of(
        tmp_path,
        """
        blurry = false
        [[by]]
        column = "edit_kind"
        value = "season"
        unchanged = 0.01
        [[by]]
        column = "strength"
        value = 2
        unchanged = false
        [by.at_most]
        clip_similarity = 0.65
        """,
    )
    assert thresholds.columns == ["edit_kind", "strength"]
    assert thresholds.issues(NUMBERS, {"edit_kind": "colour"}) == []
    assert thresholds.issues(NUMBERS, {"edit_kind": "season", "strength": None}) == ["unchanged"]
    for two in (2, 2.0, "2"):
        assert thresholds.issues(NUMBERS, {"edit_kind": "season", "strength": two}) == ["low_clip_similarity"]


def test_a_number_that_was_not_measured_has_no_issue() -> None:
    assert Thresholds().issues({}, {}) == []
    assert Thresholds().issues(dict.fromkeys([limit.measure for limit in LIMITS.values()]), {}) == []


def test_equal_thresholds_have_one_digest_and_others_another(tmp_path: Path) -> None:
    one = of(tmp_path, "unchanged = 0.01\nblack = 0.1")
    assert one.digest == of(tmp_path, "black = 0.1\n\nunchanged = 0.01").digest
    others = ["black = 0.1", "unchanged = 0.01\nblack = false", "[at_most]\nentropy = 1", "[at_least]\nentropy = 1"]
    others.append("unchanged = 0.01\n[[by]]\ncolumn = 'a'\nvalue = 1\nblack = 0.1")
    assert len({one.digest, Thresholds().digest, *(of(tmp_path, text).digest for text in others)}) == 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unchaged = 0.1", "'unchaged' is not known; allowed: unchanged,"),
        ("unchanged = true", "unchanged is True: a number, or false for off, is expected"),
        ("unchanged = 'low'", "unchanged is 'low'"),
        ("unchanged = nan", "unchanged is nan"),
        ("near_duplicate = 8", "near_duplicate is 8: pairs are found up to a distance of 7"),
        ("at_most = 1", "at_most: a table"),
        ("[at_most]\n'a b' = 1", "at_most: 'a b' can't be a column of numbers"),
        ("by = 1", "by: tables [[by]] are expected"),
        ("[[by]]\ncolumn = 'a'\nblack = 1", "[[by]] 1: column (a text) and value"),
        ("[[by]]\ncolumn = 'a'\nvalue = 1\nblak = 1", "[[by]] 1: 'blak' is not known"),
        ("unchanged =", "it is no TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        of(tmp_path, text)
    assert f"KONTEXT_QUALITY is {tmp_path / 'quality.toml'}: {reason}" in str(caught.value)


def test_files_that_cant_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="it can't be read: No such file"):
        read_thresholds(str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match="it can't be read"):
        read_thresholds(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_thresholds(str(tmp_path / "latin.toml"))


def test_a_column_that_no_table_has_is_named(tmp_path: Path) -> None:
    thresholds = of(tmp_path, "[[by]]\ncolumn = 'edit_knd'\nvalue = 'a'\nblack = 0.1")
    thresholds.check_columns(["edit_knd", "prompt"])
    with pytest.raises(
        SettingsError, match=r"names the column 'edit_knd'.*Columns: edit_kind, prompt\. Nothing was sent"
    ):
        thresholds.check_columns(["prompt", "edit_kind"])
