"""The expansion of a recipe: pairs of inputs and edits are chosen, and become the rows of a manifest.

Each pair has an id, a hash of the recipe's seed, the input and the edit. So a pair keeps its id, and with it its seeds
and fingerprints, whatever other inputs and edits the recipe has. A sample is the pairs with the smallest ids.

All numbers of pairs are computed a column at a time; a template is rendered once for each different set of values.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.columns import MANIFEST_COLUMNS
from kontext_pipeline.planning.problems import quoted
from kontext_pipeline.planning.recipes.recipe_file import (
    INVERSE,
    LABEL,
    Edit,
    Options,
    Recipe,
)
from kontext_pipeline.planning.recipes.recipe_inputs import (
    IDENTITY,
    IMAGE,
    ROW,
    SOURCE,
    InputTable,
)
from kontext_pipeline.planning.recipes.templates import Template, TemplateProblem

MOST_PAIRS: Final = 1_000_000_000
"""Most pairs from which a sample is taken, or which a condition filters."""
_AT_ONCE: Final = 2**16
_TYPES: Final = {column.name: column.type for column in MANIFEST_COLUMNS}

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class RowProblem(TemplateProblem):
    """A template can't be rendered for a row. `edit` and `part` say which template."""

    def __init__(self, edit: int, part: str, text: str) -> None:
        super().__init__(text)
        self.edit = edit
        self.part = part


@dataclass(frozen=True, slots=True)
class _Combination:
    """One edit with one value of each list that its prompt uses."""

    edit: int
    values: dict[str, Any]


class Expansion:
    """The rows of a valid recipe. A row is a pair: the index of an input and the index of a combination."""

    def __init__(self, recipe: Recipe, inputs: InputTable, templates: Sequence[Mapping[str, Template]]) -> None:
        """`templates` are those of each edit, by their keys in the recipe."""
        self._recipe = recipe
        self._inputs = inputs
        self._templates = templates
        self._combinations = list(_combinations(recipe, templates))
        self._edits = np.array([one.edit for one in self._combinations], np.int64)
        self._input_hashes = _hashes(recipe.seed, inputs.rows[IDENTITY].to_pylist())
        self._combination_hashes = _hashes(recipe.seed, map(self._identity, self._combinations))
        self._groups: dict[frozenset[str], Indices] = {}
        self._pairs: Indices | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The counts of inputs and of combinations."""
        return len(self._input_hashes), len(self._combinations)

    def choose(self, max_rows: int) -> None:
        """Choose the pairs that become rows, at most `max_rows`.

        Raises:
            TemplateProblem: A condition can't be evaluated, or there are too many rows.
        """
        inputs, combinations = self.shape
        combine = self._recipe.combine
        is_filtered = any("when" in templates for templates in self._templates)
        total = inputs if combine == "zip" else inputs * combinations
        is_sampled = not isinstance(combine, str)
        if is_sampled or is_filtered:
            if total > MOST_PAIRS:
                raise TemplateProblem(
                    f"has {total:,} pairs of an input and an edit; at most {MOST_PAIRS:,} are allowed"
                )
        elif total > max_rows:
            raise TemplateProblem(
                f"gives {total:,} rows; at most {max_rows:,} are allowed: use fewer, combine = {{sample = N}}, or raise "
                "KONTEXT_MAX_ROWS"
            )
        wanted = total if isinstance(combine, str) else min(combine.sample, total)
        if is_sampled and wanted > max_rows:
            raise TemplateProblem(
                f"samples {wanted:,} rows; at most {max_rows:,} are allowed: use fewer, or raise KONTEXT_MAX_ROWS"
            )
        if not is_filtered and wanted == total:
            self._pairs = np.arange(total, dtype=np.int64)
            return
        chosen: list[Indices] = []
        size = 0
        for start in range(0, total, 16 * _AT_ONCE):
            pairs = np.arange(start, min(total, start + 16 * _AT_ONCE), dtype=np.int64)
            chosen.append(self._passing(pairs) if is_filtered else pairs)
            size += len(chosen[-1])
            if is_sampled and size > 2 * wanted + 16 * _AT_ONCE:
                chosen = [self._smallest(np.concatenate(chosen), wanted)]
                size = wanted
            elif not is_sampled and size > max_rows:
                break
        pairs = np.concatenate(chosen)
        if is_sampled:
            pairs = self._smallest(pairs, wanted)
        if len(pairs) > max_rows:
            raise TemplateProblem(
                f"gives more than {max_rows:,} rows, the most that are allowed; use fewer, or raise KONTEXT_MAX_ROWS"
            )
        self._pairs = np.sort(pairs)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows, some at a time, with the columns of a manifest and the user's own.

        Raises:
            TemplateProblem: A template can't be rendered with the values of a row.
        """
        assert self._pairs is not None
        for start in range(0, max(1, len(self._pairs)), _AT_ONCE):
            yield self._rows(self._pairs[start : start + _AT_ONCE])

    def unused_edits(self) -> list[int]:
        """Return the edits with a condition that no pair fulfils; of a sample, none."""
        if self._pairs is None or not isinstance(self._recipe.combine, str):
            return []
        used = np.unique(self._edits[self._split(self._pairs)[1]])
        conditional = [index for index, templates in enumerate(self._templates) if "when" in templates]
        return [index for index in conditional if index not in used]

    def origin(self, row: int) -> tuple[int, int, int]:
        """Return the edit, the input's source (-1: none) and its row in the source's table (0: none) of a row, from 1."""
        assert self._pairs is not None
        inputs, combinations = self._split(self._pairs[row - 1 : row])
        at = int(inputs[0])
        return (
            int(self._edits[combinations[0]]),
            self._inputs.rows[SOURCE][at].as_py(),
            self._inputs.rows[ROW][at].as_py(),
        )

    def _split(self, pairs: Indices) -> tuple[Indices, Indices]:
        if self._recipe.combine == "zip":
            return pairs, pairs
        return np.divmod(pairs, len(self._combinations))

    def _identity(self, one: _Combination) -> str:
        return json.dumps([self._recipe.edits[one.edit].name, one.values], sort_keys=True)

    def _ids(self, pairs: Indices) -> Hashes:
        """Return a well mixed hash of each pair: two pairs have the same one by chance alone."""
        inputs, combinations = self._split(pairs)
        hashes = self._input_hashes[inputs] + self._combination_hashes[combinations]
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
        return hashes

    def _smallest(self, pairs: Indices, count: int) -> Indices:
        if len(pairs) <= count:
            return pairs
        smallest: Indices = pairs[np.argpartition(self._ids(pairs), count - 1)[:count]]
        return smallest

    def _passing(self, pairs: Indices) -> Indices:
        inputs, combinations = self._split(pairs)
        passes = self._texts("when", inputs, combinations, "true")
        kept: Indices = pairs[np.asarray(pc.equal(passes, "true"))]
        return kept

    def _rows(self, pairs: Indices) -> pa.Table:
        inputs, combinations = self._split(pairs)
        text = self._ids(pairs).astype(">u8").tobytes().hex()
        ids = pa.array([text[start : start + 16] for start in range(0, len(text), 16)], pa.string())
        columns = {"id": ids, "prompt": self._texts("prompt", inputs, combinations)}
        taken = self._inputs.rows.select([IMAGE, *self._inputs.carried]).take(pa.array(inputs))
        columns["input_image"] = taken[IMAGE]
        edits = self._edits[combinations]
        for name in Options.model_fields:
            values = [self._option(edit, name) for edit in self._recipe.edits]
            if any(value is not None for value in values):
                columns[name] = pa.array(values, _TYPES[name]).take(pa.array(edits))
        for part in (LABEL, INVERSE):
            if any(part in templates for templates in self._templates):
                columns[part] = self._texts(part, inputs, combinations)
        return pa.table({**columns, **{name: taken[name] for name in self._inputs.carried}})

    def _option(self, edit: Edit, name: str) -> Any:
        own = getattr(edit, name)
        return getattr(self._recipe.defaults, name) if own is None else own

    def _texts(self, part: str, inputs: Indices, combinations: Indices, default: str | None = None) -> pa.Array:
        """Return the texts of one of the `PARTS`; edits that don't have the part have `default`."""
        codes = np.empty(len(inputs), np.int64)
        edits = self._edits[combinations]
        used: set[str] = set()
        for edit in np.unique(edits).tolist():
            template = self._templates[edit].get(part)
            attributes = template.attributes if template else frozenset()
            used |= attributes
            which = edits == edit
            codes[which] = self._group(attributes)[inputs[which]]
        codes += combinations * len(self._input_hashes)
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        rows = self._inputs.rows.select(sorted(used)).take(pa.array(inputs[first])).to_pylist() if used else None
        texts = []
        for index, combination in enumerate(combinations[first].tolist()):
            one = self._combinations[combination]
            template = self._templates[one.edit].get(part)
            columns = rows[index] if rows else {}
            texts.append(default if template is None else self._rendered(template, part, one, columns))
        return pa.array(texts, pa.string()).take(pa.array(inverse))

    def _rendered(self, template: Template, part: str, one: _Combination, columns: Mapping[str, Any]) -> str:
        try:
            return template.render(one.values, {name: columns[name] for name in template.attributes})
        except TemplateProblem as error:
            with_values = ", ".join(f"{name} = {quoted(value)}" for name, value in one.values.items())
            raise RowProblem(one.edit, part, f"{error}" + (f" (with {with_values})" if with_values else "")) from None

    def _group(self, attributes: frozenset[str]) -> Indices:
        """Return for each input the index of the first input with the same values of `attributes`."""
        if attributes not in self._groups:
            codes = np.zeros(len(self._input_hashes), np.int64)
            for name in sorted(attributes):
                column = self._inputs.rows[name].combine_chunks()
                if pa.types.is_nested(column.type):
                    codes = np.arange(len(codes))
                    break
                values = column.dictionary_encode(null_encoding="encode").indices
                codes = np.unique(codes * len(codes) + np.asarray(values), return_inverse=True)[1]
            self._groups[attributes] = codes
        return self._groups[attributes]


def _combinations(recipe: Recipe, templates: Sequence[Mapping[str, Template]]) -> Iterator[_Combination]:
    for index, of_edit in enumerate(templates):
        names = [name for name in recipe.lists if name in of_edit["prompt"].names]
        for values in itertools.product(*(recipe.lists[name] for name in names)):
            yield _Combination(index, dict(zip(names, values, strict=True)))


def _hashes(seed: int, identities: Any) -> Hashes:
    digests = b"".join(hashlib.sha256(f"{seed}\n{identity}".encode()).digest()[:8] for identity in identities)
    return np.frombuffer(digests, ">u8").astype(np.uint64)
