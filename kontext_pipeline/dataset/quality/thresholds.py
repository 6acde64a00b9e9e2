"""The thresholds from which issues follow, and the file that `KONTEXT_QUALITY` names.

unchanged = 0.002                # the threshold of an issue
blurry = false                   # an issue that is off

[at_most]                        # any number: the issue low_clip_similarity
clip_similarity = 0.7

[[by]]                           # other thresholds for rows with this value
column = "edit_kind"
value = "season"
unchanged = 0.02
"""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from upath import UPath

from kontext_pipeline.dataset.quality.near_duplicates import RADIUS
from kontext_pipeline.errors import SettingsError

Side = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A number, and the threshold at which it has an issue.

    Attributes:
        name: The threshold's key in the file.
        measure: The number's column.
        side: Whether the number has the issue at or below the threshold, or at or above it.
        default: None: off.
    """

    name: str
    measure: str
    side: Side
    default: float | None

    def reached(self, number: float | None, threshold: float) -> bool:
        """Return whether a number has reached the threshold. One that was not measured hasn't."""
        if number is None:
            return False
        return number <= threshold if self.side == "at most" else number >= threshold


@dataclass(frozen=True, slots=True)
class Rule:
    """An issue: present where all limits are reached, absent where one of them is off."""

    issue: str
    limits: tuple[Limit, ...]


def _rule(issue: str, measure: str, side: Side, default: float | None, *more: Limit, limit: str | None = None) -> Rule:
    return Rule(issue, (Limit(limit or issue, measure, side, default), *more))


RULES: Final = (
    _rule(
        *("unchanged", "changed_share", "at most", 0.001),
        Limit("unchanged_mean_difference", "mean_difference", "at most", 4.0),
        Limit("unchanged_input_distance", "input_distance", "at most", 8),
    ),
    _rule("black", "brightness_p99", "at most", 0.05),
    _rule("blank", "contrast", "at most", 0.01),
    _rule("dark", "brightness_p99", "at most", 0.35),
    _rule("light", "brightness_p5", "at least", 0.95),
    _rule("blurry", "sharpness", "at most", 8.0),
    _rule("low_information", "entropy", "at most", 2.5),
    _rule("odd_aspect_ratio", "aspect_ratio_error", "at least", 0.05),
    _rule("odd_aspect_ratio", "input_aspect_ratio_error", "at least", 0.2, limit="odd_input_aspect_ratio"),
    _rule("near_duplicate", "near_duplicate_distance", "at most", 2),
    _rule("near_duplicate", "variant_distance", "at most", 2, limit="near_duplicate_variant"),
    _rule("large_change", "changed_share", "at least", None),
    _rule("scatter", "largest_change_share", "at most", 0.005),
)
"""Every issue, with the default thresholds. Two rules with the same issue are alternatives."""
LIMITS: Final = {limit.name: limit for rule in RULES for limit in rule.limits}
ISSUES: Final = tuple(dict.fromkeys(rule.issue for rule in RULES))
_SIDES: Final[dict[str, tuple[Side, str]]] = {"at_most": ("at most", "low_"), "at_least": ("at least", "high_")}
_COLUMN: Final = re.compile("[a-z][a-z0-9_]{0,120}")

Numbers = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Thresholds by key, and those of any number by side and column; None: off."""

    named: Mapping[str, float | None] = field(default_factory=dict)
    any_number: Mapping[tuple[str, str], float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ByValue:
    """Other thresholds for the rows whose `column` has this value."""

    column: str
    value: str
    chosen: Chosen


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds for all rows, and the other ones by value; of several that fit a row, the last one counts."""

    chosen: Chosen = field(default_factory=Chosen)
    by_value: tuple[ByValue, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns of the metadata table that thresholds hang on."""
        return sorted({one.column for one in self.by_value})

    @property
    def digest(self) -> str:
        """16 hex digits that change with the issues of any picture."""
        text = json.dumps(
            [_plain(self.chosen), [[o.column, o.value, _plain(o.chosen)] for o in self.by_value], repr(RULES)]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def issues(self, numbers: Numbers, row: Mapping[str, Any]) -> list[str]:
        """Return the names of a picture's issues, in the order of `ISSUES`.

        `numbers`: the columns of the quality table. `row`: the columns `columns` of the metadata table, where it has them.
        """
        named = {name: limit.default for name, limit in LIMITS.items()} | dict(self.chosen.named)
        any_number = dict(self.chosen.any_number)
        for one in self.by_value:
            if one.value == text_of(row.get(one.column)):
                named.update(one.chosen.named)
                any_number.update(one.chosen.any_number)
        found = [rule.issue for rule in RULES if _holds(rule, numbers, named)]
        for (side_name, column), threshold in any_number.items():
            side, prefix = _SIDES[side_name]
            limit = Limit("", column, side, None)
            if threshold is not None and limit.reached(numbers.get(column), threshold):
                found.append(f"{prefix}{column}")
        return list(dict.fromkeys(found))

    def check_columns(self, names: Collection[str]) -> None:
        """Make sure that thresholds hang on columns that exist.

        Raises:
            SettingsError: One of them isn't in `names`, the columns of the metadata table.
        """
        for column in self.columns:
            if column not in names:
                raise SettingsError(
                    f"KONTEXT_QUALITY: a [[by]] names the column {column!r}, which the metadata table lacks. Columns: "
                    f"{', '.join(sorted(names))}. Nothing was sent."
                )


def text_of(value: Any) -> str:
    """Return a value of a column as the thresholds compare it: `true` for True, `2` for 2 and 2.0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def read_thresholds(path: str | None) -> Thresholds:
    """Read a file of thresholds, at a path or an fsspec URL. None: the defaults.

    Raises:
        SettingsError: It can't be read, or has a key or value that is not allowed.
    """
    if path is None:
        return Thresholds()
    try:
        document = tomllib.loads(UPath(path).read_text(encoding="utf-8-sig"))
        return _thresholds(document)
    except tomllib.TOMLDecodeError as error:
        reason = f"it is no TOML: {error}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except OSError as error:
        reason = f"it can't be read: {error.strerror or error}"
    except ValueError as error:
        reason = str(error)
    raise SettingsError(f"KONTEXT_QUALITY is {path}: {reason}. Nothing was sent.")


def _thresholds(document: Mapping[str, Any]) -> Thresholds:
    rest = dict(document)
    listed = rest.pop("by", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError("by: tables [[by]] are expected")
    by_value = []
    for number, one in enumerate(listed, start=1):
        where, own = f"[[by]] {number}: ", dict(one)
        column, value = own.pop("column", None), own.pop("value", None)
        if not isinstance(column, str) or not isinstance(value, str | int | float | bool):
            raise ValueError(f"{where}column (a text) and value (a text, number or boolean) are needed")
        by_value.append(ByValue(column, text_of(value), _chosen(own, where)))
    return Thresholds(_chosen(rest, ""), tuple(by_value))


def _chosen(table: Mapping[str, Any], where: str) -> Chosen:
    named: dict[str, float | None] = {}
    any_number: dict[tuple[str, str], float | None] = {}
    for name, value in table.items():
        if name in _SIDES:
            if not isinstance(value, dict):
                raise ValueError(f"{where}{name}: a table of columns and thresholds is expected")
            for column, threshold in value.items():
                if not _COLUMN.fullmatch(column):
                    raise ValueError(f"{where}{name}: {column!r} can't be a column of numbers")
                any_number[name, column] = _number(threshold, f"{where}{name}.{column}")
        elif name in LIMITS:
            named[name] = _number(value, f"{where}{name}")
            if name == "near_duplicate" and (named[name] or 0) > RADIUS:
                raise ValueError(f"{where}{name} is {value}: pairs are found up to a distance of {RADIUS}")
        else:
            raise ValueError(f"{where}{name!r} is not known; allowed: {', '.join([*LIMITS, *_SIDES, 'by'])}")
    return Chosen(named, any_number)


def _number(value: Any, where: str) -> float | None:
    if value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}: a number, or false for off, is expected")
    return float(value)


def _holds(rule: Rule, numbers: Numbers, named: Mapping[str, float | None]) -> bool:
    for limit in rule.limits:
        threshold = named[limit.name]
        if threshold is None or not limit.reached(numbers.get(limit.measure), threshold):
            return False
    return True


def _plain(chosen: Chosen) -> Any:
    return [sorted(chosen.named.items()), sorted([*key, value] for key, value in chosen.any_number.items())]
