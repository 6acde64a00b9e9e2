"""Every key has the line on which it is written."""

import tomllib

import pytest

from kontext_pipeline.planning.recipes.toml_lines import KeyLines, KeyPath

DOCUMENT = '''\
# comment with "quotes' and [brackets] = {
seed = 1  # another = one
text = """
not = a key
[not.a.table] ""\\""" and five quotes"""""
literal = \'\'\'
[[edits]]
\'\'\'
array = [ # opens here
  "a = [", { b = "]" },

]
"quoted key" = 2
a.b.c = 3

[lists]
weather = ["rain"]

[[edits]]
prompt = '"'
[edits.values]
x = 1
[[edits]]
[[edits.parts]]
y = 1
[[edits.parts]]
y = 2
[ "other" . 'table' ]
z = true
'''
LINES: dict[KeyPath, int] = {
    ("seed",): 2,
    ("text",): 3,
    ("literal",): 6,
    ("array",): 9,
    ("array", 1, "b"): 9,
    ("quoted key",): 13,
    ("a", "b", "c"): 14,
    ("lists",): 16,
    ("lists", "weather"): 17,
    ("lists", "weather", 0): 17,
    ("edits", 0): 19,
    ("edits", 0, "prompt"): 20,
    ("edits", 0, "values"): 21,
    ("edits", 0, "values", "x"): 22,
    ("edits", 1): 23,
    ("edits", 1, "missing"): 23,
    ("edits", 1, "parts", 0): 24,
    ("edits", 1, "parts", 1, "y"): 27,
    ("other", "table"): 28,
    ("other", "table", "z"): 29,
    ("nowhere",): 1,
}


@pytest.mark.parametrize("path", LINES, ids=str)
def test_the_line_of_a_key(path: KeyPath) -> None:
    assert tomllib.loads(DOCUMENT)["edits"][1]["parts"][1]["y"] == 2
    assert KeyLines(DOCUMENT).of(path) == LINES[path]
