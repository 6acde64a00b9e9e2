"""A batch's table follows the ledger, whatever another run writes at the same moment."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
from upath import UPath

from kontext_pipeline.batch_tables import BatchTables
from kontext_pipeline.dataset.storage import batch_path, read_batch
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Settlement, Stored
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.planner import make_plan

KEY = "rows-00000"


class Overtaken(Ledger):
    """A ledger whose user is overtaken by another run, once, after it has read and before it writes."""

    overtake: Callable[[], None] | None = None

    def generations(self, fingerprints: Sequence[str]) -> pa.Table:
        found = super().generations(fingerprints)
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()
        return found


def test_an_older_table_that_is_written_over_a_newer_one_is_mended(
    tmp_path: Path, manifest: Callable[..., Path]
) -> None:
    data_dir = UPath(tmp_path / "out")
    path = manifest([{"prompt": prompt, "score": score} for prompt, score in (("a", "1"), ("b", ""))])
    plan = make_plan(
        read_manifests([str(path)]),
        data_dir=data_dir,
        backend="segmind",
        seed=0,
        batch_size=5,
        clamp_safety_tolerance=False,
    )
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    slow, fast = Overtaken(url, backend="segmind"), Ledger(url, backend="segmind")
    fast.register(run_id="fast", lease_s=60)
    fingerprint = plan.batch_table(KEY)["fingerprint"][0].as_py()
    (reserved,) = fast.reserve([(fingerprint, KEY)], ReservationTerms("v1", 100_000))
    assert isinstance(reserved, Reserved)

    def settle_and_write() -> None:
        picture = Stored(f"images/{fingerprint[:2]}/{fingerprint}.png", "1" * 64, 8, 8, 100)
        settlement = Settlement("charged", "succeeded", cost=100_000)
        fast.settle(reserved.attempt, settlement, status="succeeded", picture=picture)
        BatchTables(plan, ledger=fast, data_dir=data_dir).bring_up_to_date(KEY)

    slow.overtake = settle_and_write
    BatchTables(plan, ledger=slow, data_dir=data_dir).bring_up_to_date(KEY)
    assert slow.overtake is None
    assert read_batch(data_dir, KEY)["cost_usd"].to_pylist() == [0.1, 0.0]
    written = batch_path(data_dir, KEY).stat().st_mtime_ns
    BatchTables(plan, ledger=fast, data_dir=data_dir).bring_up_to_date(KEY)
    assert batch_path(data_dir, KEY).stat().st_mtime_ns == written, "the plan read again is the same plan"
    for ledger in (slow, fast):
        ledger.close()
