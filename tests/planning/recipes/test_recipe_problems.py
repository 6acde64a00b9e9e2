"""Every problem of a recipe is said at once, with the line that causes it."""

from pathlib import Path

import pytest

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from tests.planning.recipes.conftest import Expand

KEYS = """\
sede = 3
combine = "zipp"
lists.empty = []
[defaults]
aspect_ratoi = "1:1"
[[inputs]]
files = 3
[[inputs]]
files = "x"
table = "y"
[[inputs]]
files = "photos"
columns = ["a"]
[[inputs]]
files = "photos"
[inputs.values]
prompt = "x"
kind = {a = 1}
[[edits]]
promt = "x"
aspect_ratio = "5:7"
[[edits]]
prompt = "x"
variants = "2"
safety_tolerance = 9
"""
KEY_PROBLEMS = [
    "line 1, sede: there is no such key; did you mean seed? (allowed: seed, combine, lists, defaults, inputs, edits)",
    'line 2, combine: \'zipp\' is not allowed; allowed: "product", "zip" or {sample = N}',
    "line 3, lists.empty: is empty; one value or more is needed",
    "line 5, defaults.aspect_ratoi: there is no such key; did you mean aspect_ratio? (allowed: aspect_ratio, "
    "output_format, safety_tolerance, seed, variants)",
    "line 7, inputs.files: '3': should be a valid list",
    "line 8, inputs: needs files (paths, globs, folders or URLs) or table (a CSV, Parquet ... file), one of the two",
    "line 11, inputs: image, id and columns are of a table; files may have values",
    "line 17, inputs.values.prompt: 'prompt' is a column of ours; rename yours",
    "line 18, inputs.values.kind: \"{'a': 1}\" is not allowed; allowed: text, a number of at most 64 bits, true or false",
    "line 19, edits.prompt: is missing",
    "line 20, edits.promt: there is no such key; did you mean prompt? (allowed: aspect_ratio, output_format, "
    "safety_tolerance, seed, variants, prompt, label, inverse, when)",
    "line 21, edits.aspect_ratio: '5:7' is not allowed; allowed: 'match_input_image', '1:1', '16:9', '9:16', '4:3', "
    "'3:4', '3:2', '2:3', '4:5', '5:4', '21:9', '9:21', '2:1' or '1:2'",
    "line 24, edits.variants: '2': should be a valid integer",
    "line 25, edits.safety_tolerance: '9': should be less than 7",
]

NAMES = """\
[lists]
weather = ["rain", "snow"]
part = [{name = "a door", undo = "no door"}, {name = "a gate"}]
input = ["x"]
[[inputs]]
files = ["photos/*.png", "nothing"]
[[inputs]]
table = "missing.csv"
columns = ["subject"]
[[inputs]]
table = "t.csv"
[[inputs]]
table = "blank.csv"
image = "url"
[[edits]]
prompt = "{{ wether }} {{ input.subjekt }} {{ part.undo }}"
[[edits]]
label = "a"
prompt = "{{ weather }}"
inverse = "{{ part.name }}"
[[edits]]
label = "a"
prompt = '''
{{ range(9) }}'''
when = "input.stem =="
"""
NAME_PROBLEMS = [
    "line 4, lists.input: a list needs a name of letters, digits and _ that isn't input",
    "line 6, inputs.files: no picture is at 'nothing'",
    "line 6, inputs.files: no picture is at 'photos/*.png'",
    "line 8, inputs.table: {folder}/missing.csv: there is no such file",
    "line 11, inputs.table: {folder}/t.csv: there is no column 'input_image' (columns there: 'url', 'x'); name the column "
    "of the picture with image",
    "line 13, inputs.table: {folder}/blank.csv: row 2, column url: is empty; every row needs a value",
    "line 16, edits.prompt: uses input.subjekt, and the input of line 10 has no such column (columns: name, stem, folder)",
    "line 16, edits.prompt: uses input.subjekt, and the input of line 12 has no such column (columns: name, stem, folder)",
    "line 16, edits.prompt: uses input.subjekt, and the input of line 5 has no such column (columns: name, stem, folder)",
    "line 16, edits.prompt: uses input.subjekt, and the input of line 7 has no such column; did you mean subject? "
    "(columns: name, stem, folder, subject)",
    "line 16, edits.prompt: uses part.undo, and \"{'name': 'a gate'}\" of the list has no such field",
    "line 16, edits.prompt: uses wether, and there is no such list; did you mean weather? (lists: weather, part, input; "
    "a column of the input is input.NAME)",
    "line 20, edits.inverse: uses the list part, which the prompt doesn't use",
    "line 22, edits.label: 'a' is the name of the edit of line 17 already; give each edit a label of its own",
    "line 23, edits.prompt: calls a function, which is not allowed; filters are: capitalize, default, first, int, join, "
    "last, length, lower, replace, round, title, trim, truncate, upper",
    "line 25, edits.when: is not a valid jinja2 template: unexpected 'end of template'",
]
EDIT = '[[edits]]\nprompt = "x"\n'
PHOTOS = '[[inputs]]\nfiles = "photos"\n'


@pytest.mark.parametrize(
    ("recipe", "problems"),
    [
        ("edits = [\n", ["isn't valid TOML: Invalid value (at end of document)"]),
        ("a = 1\na = 2\n", ["isn't valid TOML: Cannot overwrite a value (at line 2, column 6)"]),
        ("", ["line 1, edits: is missing"]),
        ('lists.a = ["x", "x"]\n' + EDIT, ['line 1, lists.a: "x" is there more than once']),
        (KEYS, KEY_PROBLEMS),
        (NAMES, NAME_PROBLEMS),
        (
            '[[edits]]\nprompt = "{{ input.stem }}"',
            ["line 2, edits.prompt: uses input.stem, and the recipe has no [[inputs]]"],
        ),
        (
            "[lists]\nn = [1, 0]\n[[edits]]\nprompt = \"{{ n - 'x' }}\"",
            [
                "line 4, edits.prompt: can't be rendered: unsupported operand type(s) for -: 'int' and 'str' (with n = '1')"
            ],
        ),
        (
            PHOTOS + '\n[[inputs]]\nfiles = "photos/cat.*"\n' + EDIT,
            ["line 4, inputs: 'photos/cat.jpg' is an input already (line 1); name each input once"],
        ),
        (
            '[[inputs]]\ntable = "twice.csv"\nimage = "url"\n' + EDIT,
            [
                "line 1, inputs: row 3: 'https://e.org/a.jpg' is an input already (line 1, row 1); name each input once, "
                "or tell rows with the same picture apart by a column: id = NAME"
            ],
        ),
        (
            'combine = "zip"\n' + PHOTOS + EDIT,
            [
                'line 1, combine: "zip" pairs the first input with the first edit, and so on; their numbers must be the '
                "same (inputs: 3, edits with the values of their lists: 1)"
            ],
        ),
        (
            PHOTOS + '[[edits]]\nlabel = "a"\nprompt = "{% if input.stem == \'cat\' %} {% else %}x{% endif %}"',
            ["row 2, column prompt (edit of line 3, input of line 1): is empty; every row needs a prompt"],
        ),
        (
            '[[inputs]]\ntable = "t.csv"\nimage = "x"\n' + EDIT,
            [
                "row 2, column input_image (edit of line 4, input of line 1, row 2): 'there.jpg': no file is there "
                "({folder}/there.jpg)"
            ],
        ),
        ('[[inputs]]\nfiles = "r.toml"\n' + EDIT, None),
        ('[[inputs]]\ntable = "r.toml"\n' + EDIT, None),
    ],
)
def test_problems(expand: Expand, folder: Path, recipe: str, problems: list[str] | None) -> None:
    (folder / "t.csv").write_text("url,x\nhttps://e.org/a.jpg,photos/cat.jpg\nhttps://e.org/b.jpg,there.jpg\n")
    (folder / "blank.csv").write_text("url,x\nhttps://e.org/a.jpg,1\n,2\n")
    (folder / "twice.csv").write_text("url\nhttps://e.org/a.jpg\nhttps://e.org/b.jpg\nhttps://e.org/a.jpg\n")
    with pytest.raises(ManifestError) as caught:
        expand(recipe)
    if problems is not None:
        separator = ": " if problems[0].startswith("isn't") else ", "
        start = f"{folder}/r.toml{separator}"
        assert caught.value.problems == [start + problem.replace("{folder}", str(folder)) for problem in problems]


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "latin.toml").write_bytes("# café\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="byte 5 of the file isn't UTF-8"):
        read_rows(read_manifests([folder / "latin.toml"]), {})


@pytest.mark.parametrize(
    ("combine", "words"),
    [
        ('"product"', "line 1, combine: gives 36 rows; at most 30 are allowed"),
        ("{sample = 31}", "line 1, combine: samples 31 rows; at most 30 are allowed"),
    ],
)
def test_too_many_rows(expand: Expand, combine: str, words: str) -> None:
    recipe = f"combine = {combine}\nlists.n = {list(range(12))}\n{PHOTOS}[[edits]]\nprompt = '{{{{ n }}}}'"
    with pytest.raises(ManifestError, match=words):
        expand(recipe, max_rows=30)
