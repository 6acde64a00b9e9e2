"""`kontext verify --resample`: rows of the lock are asked for again and compared: the provider's drift."""

from rich.table import Table

from kontext_pipeline import console
from kontext_pipeline.commands.run import RunCommand
from kontext_pipeline.dataset.lock.resample_table import Drift, drift_of, read_drifts
from kontext_pipeline.exits import Exit
from kontext_pipeline.generation.resamples import FOLDER
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.planning.estimate import estimate
from kontext_pipeline.resampling import finish_resample, open_resample


def resample(pipeline: Pipeline, *, count: int, seed: int | None, budget: float | None, yes: bool) -> Exit:
    """Ask `count` rows of the lock again, say how far their pictures have drifted, and return the exit status.

    An unfinished resample of so many rows goes on.

    Raises:
        KontextError: nothing was sent, or the pictures can't be compared.
    """
    command = RunCommand(pipeline, budget=budget, retry_failed=False, retry_unknown=False, yes=yes)
    begun = open_resample(pipeline, count, seed)
    plan = begun.plan
    left = estimate(
        plan,
        settled=pipeline.settled(plan.requested, look_at_files=False),
        concurrency=pipeline.settings.concurrency,
        rpm=pipeline.settings.rpm,
    )
    console.say(
        f"\nResample {begun.name}: {console.many(plan.requested, 'row')}, {left.already_there:,} already there, "
        f"{left.to_generate:,} to be asked again for {left.cost_usd:,.2f} USD"
        + ("" if pipeline.settings.paid else " (sandbox: nothing is spent)")
    )
    if left.to_generate:
        generated = command.generate(plan, left)
        if isinstance(generated, Exit):
            return generated
        if generated[0] is not None:
            return Exit.STOPPED
    table = finish_resample(pipeline, begun)
    for row in table.to_pylist():
        if row["outcome"] != "identical":
            bits = "" if row["distance"] is None else f", {row['distance']} of 64 bits"
            why = f": {row['error']}" if row["error"] else ""
            outcome = row["outcome"].replace("_", " ")
            console.say(f"{outcome}: {row['manifest']} id {row['id']} ({row['fingerprint'][:12]}){bits}{why}")
    _show([*read_drifts(pipeline.data_dir / FOLDER)])
    drift = drift_of(table)
    return Exit.DONE if drift.outcomes["identical"] + drift.outcomes["near"] == drift.asked else Exit.SOME_FAILED


def _show(drifts: list[Drift]) -> None:
    """Print what all resamples have found, the last one at the end."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("resample")
    names = ("identical", "near", "different", "not_compared", "no_picture")
    for title in (*(name.replace("_", " ") for name in names), "mean distance", "drift", "USD"):
        table.add_column(title, justify="right")
    for drift in drifts:
        counts = [f"{drift.outcomes[name]:,}" for name in names]
        distance = "" if drift.mean_distance is None else f"{drift.mean_distance:.1f}"
        share = "" if drift.share is None else f"{drift.share:.0%}"
        table.add_row(drift.resample, *counts, distance, share, f"{drift.cost_usd:,.2f}")
    console.out.print(table)
