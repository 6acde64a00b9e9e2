"""How long the expansion of a recipe takes, and how much memory it needs.

    python -m benchmarks.recipes [--rows 10000 100000 1000000]

Each figure is of a fresh process, imports included. The inputs are the rows of a CSV file with URLs and a column that
the prompts use, the edits two templates over lists of ten values, so all prompts differ between subjects.
  plan       plan the recipe: expansion, checks, seeds, fingerprints, plan file
  expand     `kontext expand`: expansion, checks and the table, as each file type
  sample     plan a hundredth of the pairs
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.planning import _PLAN, measured

RECIPE = """
combine = {combine}

[lists]
weather = {values}
season = {values}

[[inputs]]
table = "inputs.csv"
image = "url"
columns = ["subject"]

[[edits]]
label = "weather"
prompt = "Show {{{{ input.subject }}}} in {{{{ weather }}}} on a grey morning, keep the pose, the framing and the light"
inverse = "Remove the {{{{ weather }}}}, keep everything else as it is"

[[edits]]
label = "season"
prompt = "Show {{{{ input.subject }}}} as {{{{ season }}}} begins, change the plants and the ground to suit the season"
"""
_EXPAND = """
start = time.perf_counter()
from kontext_pipeline.planning.expanded_file import write_expanded
class Rows:
    batches = ()
    pictures = write_expanded(sys.argv[1], sys.argv[2])
report(Rows, time.perf_counter() - start)
"""


def print_figures(count: int) -> None:
    """Expand one recipe in all the ways, and print a line for each."""
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as name:
        folder = Path(name)
        lines = (f"https://images.example.org/originals/{n:032x}.jpg,subject {n % 5003}\n" for n in range(count // 20))
        (folder / "inputs.csv").write_text("url,subject\n" + "".join(lines))
        recipe = folder / "recipe.toml"
        values = [f"value number {n}" for n in range(10)]

        def step(what: str, program: str, combine: str, *arguments: str) -> None:
            recipe.write_text(RECIPE.format(combine=combine, values=values))
            figures = measured(program, str(recipe), *arguments)
            print(
                f"| {figures['pictures']:,} | {what} | {figures['process']:.2f} | {figures['cpu']:.2f} | "
                f"{figures['rss']:.0f} | {figures['process'] / count * 1e6:.1f} |",
                flush=True,
            )

        step("plan", _PLAN, '"product"', str(folder), "1000")
        for kind in ("csv", "jsonl", "parquet"):
            step(f"expand {kind}", _EXPAND, '"product"', str(folder / f"out.{kind}"))
        step("sample", _PLAN, f"{{sample = {max(1, count // 100)}}}", str(folder / "sampled"), "1000")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    print("| rows | step | seconds | CPU s | peak RSS MB | us a row of the product |")
    print("|---:|---|---:|---:|---:|---:|")
    for count in options.rows:
        print_figures(count)


if __name__ == "__main__":
    main()
