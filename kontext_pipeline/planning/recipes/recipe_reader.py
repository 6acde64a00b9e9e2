"""Reading a recipe as a manifest: every problem of the recipe is found before a row is made.

The expansion itself is in `expansion`; what a recipe's file may hold is in `recipe_file`.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.recipes.expansion import Expansion, RowProblem
from kontext_pipeline.planning.recipes.recipe_file import LABEL, PARTS, Edit, Recipe, RecipeProblems, read_recipe
from kontext_pipeline.planning.recipes.recipe_inputs import (
    BUILT_IN,
    IDENTITY,
    IMAGE,
    ROW,
    SOURCE,
    InputTable,
    ReadTable,
    RecipeInputs,
)
from kontext_pipeline.planning.recipes.templates import Template, TemplateProblem, likely
from kontext_pipeline.planning.sources import Manifest

_NO_INPUT: Final = InputTable(
    pa.table(
        {
            IMAGE: pa.array([None], pa.string()),
            IDENTITY: pa.array([""], pa.string()),
            SOURCE: pa.array([-1], pa.int32()),
            ROW: pa.array([0], pa.int64()),
        }
    ),
    [],
)
"""What stands for the inputs of a recipe without any: each edit is a prompt for text-to-image."""


def expand(
    manifest: Manifest,
    file_types: Sequence[str],
    read_table: ReadTable,
    problems: FileProblems,
    options: ManifestOptions,
) -> pa.Table | None:
    """Return the rows of a recipe's manifest, or None where the recipe can't be used, which is a problem.

    `read_table` reads tables of `file_types` (extensions). Problems of rows will name the lines of edit and input.
    """
    expansion = _opened(manifest, file_types, read_table, problems, options)
    if expansion is None:
        return None
    expanded, found = expansion
    try:
        expanded.choose(options.max_rows)
        table = pa.concat_tables(expanded.tables())
    except RowProblem as error:
        found.add(("edits", error.edit, error.part), str(error))
        return None
    except TemplateProblem as error:
        found.add(("combine",), str(error))
        return None
    for edit in expanded.unused_edits():
        problems.note(f"line {found.lines.of(('edits', edit, 'when'))}: no input fulfils the condition of this edit")
    problems.origin_of = functools.partial(_origin, expanded, found)
    return table


def _opened(
    manifest: Manifest,
    file_types: Sequence[str],
    read_table: ReadTable,
    problems: FileProblems,
    options: ManifestOptions,
) -> tuple[Expansion, RecipeProblems] | None:
    """Read and check a recipe and its inputs, before a row is made."""
    read = read_recipe(manifest, problems)
    if read is None:
        return None
    recipe, found = read
    templates = [_templates(index, edit, recipe, found) for index, edit in enumerate(recipe.edits)]
    _check_names(recipe, found)
    finder = RecipeInputs(manifest, file_types, read_table, options)
    inputs = finder.tables(recipe, found) if recipe.inputs else _NO_INPUT
    if inputs is None or found:
        return None
    expansion = Expansion(recipe, inputs, templates)
    count, combinations = expansion.shape
    if recipe.combine == "zip" and count != combinations:
        text = '"zip" pairs the first input with the first edit, and so on; their numbers must be the same'
        found.add(("combine",), f"{text} (inputs: {count:,}, edits with the values of their lists: {combinations:,})")
        return None
    return expansion, found


def _templates(index: int, edit: Edit, recipe: Recipe, found: RecipeProblems) -> dict[str, Template]:
    """Return the templates of an edit. Names that a template uses and that aren't there are problems."""
    templates: dict[str, Template] = {}
    for part in PARTS:
        source = getattr(edit, part)
        if source is None:
            continue
        path = ("edits", index, part)
        try:
            template = Template(source, is_condition=part == "when")
        except TemplateProblem as error:
            found.add(path, str(error))
            continue
        templates[part] = template
        for problem in _problems_of_names(template, recipe, found):
            found.add(path, problem)
        if not template.names <= templates.get("prompt", template).names:
            name = min(template.names - templates["prompt"].names)
            found.add(path, f"uses the list {name}, which the prompt doesn't use")
    return templates


def _problems_of_names(template: Template, recipe: Recipe, found: RecipeProblems) -> Iterator[str]:
    """Yield what is wrong with the lists, the fields of their values and the columns that a template uses."""
    for name in sorted(template.names - set(recipe.lists)):
        lists = ", ".join(recipe.lists) or "none"
        yield (
            f"uses {name}, and there is no such list{likely(name, recipe.lists)} (lists: {lists}; a column of the input "
            "is input.NAME)"
        )
    for name, field in sorted(template.fields):
        for value in recipe.lists.get(name, []):
            if not isinstance(value, dict) or field not in value:
                yield f"uses {name}.{field}, and {quoted(value)} of the list has no such field"
    for column in sorted(template.attributes):
        if not recipe.inputs:
            yield f"uses input.{column}, and the recipe has no [[inputs]]"
        for index, source in enumerate(recipe.inputs):
            there = [*BUILT_IN, *source.columns, *source.values]
            if column not in there:
                where = f"the input of line {found.lines.of(('inputs', index))}"
                hint = f"{likely(column, there)} (columns: {', '.join(there)})"
                yield f"uses input.{column}, and {where} has no such column{hint}"


def _check_names(recipe: Recipe, found: RecipeProblems) -> None:
    """Check that each edit has a name of its own."""
    first: dict[str, int] = {}
    for index, edit in enumerate(recipe.edits):
        before = first.setdefault(edit.name, index)
        if before != index:
            line = found.lines.of(("edits", before))
            part = LABEL if edit.label else "prompt"
            text = (
                f"{quoted(edit.name)} is the name of the edit of line {line} already; give each edit a label of its own"
            )
            found.add(("edits", index, part), text)


def _origin(expansion: Expansion, found: RecipeProblems, row: int) -> str:
    edit, source, number = expansion.origin(row)
    text = f"edit of line {found.lines.of(('edits', edit))}"
    if source >= 0:
        text += f", input of line {found.lines.of(('inputs', source))}" + (f", row {number}" if number else "")
    return text
