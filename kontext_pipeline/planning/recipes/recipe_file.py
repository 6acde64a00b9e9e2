"""The recipe as its TOML file has it: what may be in a recipe, read and checked, with the line of every problem."""

import json
import tomllib
from collections import Counter
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from kontext_pipeline.columns import MANIFEST_COLUMNS, RESERVED_NAMES
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.recipes.templates import INPUT, likely
from kontext_pipeline.planning.recipes.toml_lines import KeyLines, KeyPath
from kontext_pipeline.planning.sources import Manifest
from kontext_pipeline.segmind import model

LABEL: Final = "label"
INVERSE: Final = "inverse"
PARTS: Final = ("prompt", LABEL, INVERSE, "when")
"""Keys of an edit whose values are templates; `when` is an expression."""
_TAKEN: Final = RESERVED_NAMES | {column.name for column in MANIFEST_COLUMNS} | {LABEL, INVERSE}
_LARGEST_INTEGER: Final = 2**63 - 1


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _free(name: str) -> str:
    if name in _TAKEN:
        raise ValueError(f"{quoted(name)} is a column of ours; rename yours")
    return name


def _value(value: Any) -> Any:
    if isinstance(value, str | float) or (isinstance(value, int) and abs(value) <= _LARGEST_INTEGER):
        return value
    raise ValueError(f"{quoted(value)} is not allowed; allowed: text, a number of at most 64 bits, true or false")


def _item(value: Any) -> Any:
    if isinstance(value, dict) and value:
        return {name: _value(field) for name, field in value.items()}
    return _value(value)


Text = Annotated[str, Field(min_length=1)]
Integer = Annotated[int, Field(ge=-_LARGEST_INTEGER - 1, le=_LARGEST_INTEGER)]
Value = Annotated[str | bool | int | float, PlainValidator(_value)]
Item = Annotated[str | bool | int | float | dict[str, Any], PlainValidator(_item)]
OwnName = Annotated[Text, BeforeValidator(_free)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Options(_Part):
    """Columns of the rows of an edit, as in a manifest."""

    aspect_ratio: Literal[model.ASPECT_RATIOS] | None = None  # type: ignore[valid-type]
    output_format: Literal[model.OUTPUT_FORMATS] | None = None  # type: ignore[valid-type]
    safety_tolerance: Annotated[int, Field(ge=1, lt=model.SAFETY_TOLERANCES.stop)] | None = None
    seed: Annotated[int, Field(ge=0, lt=model.SEEDS.stop)] | None = None
    variants: Annotated[int, Field(ge=1, le=1000)] | None = None


class Edit(Options):
    """An instruction: a row for each combination of the named lists that `prompt` uses, beside each input.

    `prompt`, `label` and `inverse` are templates, `when` is an expression: a pair for which it is false has no row.
    """

    prompt: Text
    label: Text | None = None
    inverse: Text | None = None
    when: Text | None = None

    @property
    def name(self) -> str:
        """What tells the edit from the others: the label, else the prompt, before they are rendered."""
        return self.label or self.prompt


class Source(_Part):
    """Pictures to edit: `files` (paths, globs, folders or URLs), or the rows of `table`.

    `values` are columns with the same value in each row. Of a table, `image` is the column of the picture, `id` the one
    that tells rows with the same picture apart, and `columns` are carried along.
    """

    files: Annotated[list[Text], BeforeValidator(_list_of_one), Field(min_length=1)] | None = None
    table: Text | None = None
    image: Text = "input_image"
    id: Text | None = None
    columns: list[OwnName] = []
    values: dict[OwnName, Value] = {}

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Source":
        if (self.files is None) == (self.table is None):
            raise ValueError(
                "needs files (paths, globs, folders or URLs) or table (a CSV, Parquet ... file), one of the two"
            )
        if self.table is None and self.model_fields_set & {"image", "id", "columns"}:
            raise ValueError("image, id and columns are of a table; files may have values")
        twice = sorted(set(self.columns) & set(self.values))
        if twice:
            raise ValueError(f"columns and values both have {quoted(twice[0])}")
        return self


class Sample(_Part):
    """As many pairs of the product as `sample` says."""

    sample: Annotated[int, Field(ge=1, le=_LARGEST_INTEGER)]


def _combine(value: Any) -> Any:
    if value in ("product", "zip") or isinstance(value, dict):
        return value
    raise ValueError(f'{quoted(value)} is not allowed; allowed: "product", "zip" or {{sample = N}}')


Combine = Annotated[Literal["product", "zip"] | Sample, BeforeValidator(_combine)]


class Recipe(_Part):
    """The whole file."""

    seed: Integer = 0
    combine: Combine = "product"
    lists: dict[Text, Annotated[list[Item], Field(min_length=1)]] = {}
    defaults: Options = Options()
    inputs: list[Source] = []
    edits: Annotated[list[Edit], Field(min_length=1)]


class RecipeProblems:
    """Adds problems with the line of the recipe that causes them; true if there is any."""

    def __init__(self, problems: FileProblems, lines: KeyLines) -> None:
        """`lines` are those of the recipe's file."""
        self._problems = problems
        self._any = False
        self.lines = lines

    def __bool__(self) -> bool:
        """True if a problem was added."""
        return self._any

    def add(self, path: KeyPath, text: str) -> None:
        """Add a problem of the value at `path`."""
        named = ".".join(part for part in path if isinstance(part, str))
        self._any = True
        self._problems.add_line(text, line=self.lines.of(path), key=named)


def read_recipe(manifest: Manifest, problems: FileProblems) -> tuple[Recipe, RecipeProblems] | None:
    """Return the recipe, or None where the file is no valid recipe, which is a problem.

    Raises:
        OSError: The file can't be read.
    """
    try:
        # TOML has line breaks of either kind; the parser reads both.
        text = manifest.path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        problems.add(f"byte {error.start:,} of the file isn't UTF-8; save the recipe in UTF-8 encoding")
        return None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problems.add(f"isn't valid TOML: {error}")
        return None
    found = RecipeProblems(problems, KeyLines(text))
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            path = _path_in(document, details["loc"])
            found.add(path, _explained(details, path))
        return None
    _check_lists(recipe, found)
    return recipe, found


def _path_in(document: Any, location: tuple[str | int, ...]) -> KeyPath:
    """Return the path of a problem in the document: pydantic's location also names the kinds of a union."""
    path: list[str | int] = []
    for part in location:
        if isinstance(document, dict) and isinstance(part, str):
            if part == "[key]":
                break
            is_last = part == location[-1]
            if part not in document and not is_last:
                continue
            if part not in document and any(sign in part for sign in "[,"):
                continue
            path.append(part)
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            path.append(part)
            document = document[part]
    return tuple(path)


def _explained(details: Any, path: KeyPath) -> str:
    """Return a problem that pydantic found in our words."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _keys_beside(path)
        return f"there is no such key{likely(str(path[-1]), allowed)} (allowed: {', '.join(allowed)})"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        return f"{quoted(details['input'])} is not allowed; allowed: {context['expected']}"
    if kind in {"too_short", "string_too_short"}:
        return "is empty; one value or more is needed"
    if kind == "value_error":
        return str(context["error"])
    message = details["msg"].replace("Input should be", "should be")
    return message if isinstance(details["input"], dict | list) else f"{quoted(details['input'])}: {message}"


def _keys_beside(path: KeyPath) -> list[str]:
    parts: dict[str | int, type[_Part]] = {"inputs": Source, "edits": Edit, "defaults": Options, "combine": Sample}
    return list((parts[path[0]] if len(path) > 1 else Recipe).model_fields)


def _check_lists(recipe: Recipe, found: RecipeProblems) -> None:
    for name, values in recipe.lists.items():
        if name == INPUT or not name.isidentifier():
            found.add(("lists", name), "a list needs a name of letters, digits and _ that isn't input")
        counts = Counter(json.dumps(value, sort_keys=True) for value in values)
        for value, count in counts.items():
            if count > 1:
                found.add(("lists", name), f"{value} is there more than once")
