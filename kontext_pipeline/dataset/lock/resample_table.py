"""The tables of resamples: how each new picture differs from the one that the lock names, and the provider's drift.

<data directory>/resamples/<resample>/resample.parquet
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from kontext_pipeline.dataset.lock.listed_files import sha256_of, split_path
from kontext_pipeline.dataset.quality.decoding import UnreadablePicture, read_picture
from kontext_pipeline.dataset.quality.perceptual_hash import distance, perceptual_hash
from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import write_atomically

NEAR: Final = 8
"""Most bits of 64 in which the perceptual hashes of two pictures differ that count as near."""
RESULT: Final = "resample.parquet"

Outcome = Literal["identical", "near", "different", "not_compared", "no_picture"]
"""`identical`: the same bytes. `near`, `different`: by the perceptual hash. `not_compared`: the dataset's picture is not the
locked one any more, or the new one was made from another input picture. `no_picture`: the request brought none."""

SCHEMA: Final = pa.schema(
    [
        ("resample", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("manifest", pa.string()),
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("fingerprint", pa.string()),
        ("resample_fingerprint", pa.string()),
        ("outcome", pa.string()),
        ("distance", pa.int32()),
        ("locked_date", pa.string()),
        ("locked_sha256", pa.string()),
        ("image_sha256", pa.string()),
        ("image_path", pa.string()),
        ("cost_usd", pa.float64()),
        ("possibly_charged_usd", pa.float64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""A row for each request that was sent again. `distance` is in bits, 0 to 64."""


class ResampleError(KontextError):
    """A resample can't be read or made. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What one resample found. `cost_usd` is what it cost."""

    resample: str
    outcomes: Counter[str]
    mean_distance: float | None
    """Bits, over the compared pictures; None where none was compared."""
    cost_usd: float

    @property
    def asked(self) -> int:
        """How many requests were sent again."""
        return self.outcomes.total()

    @property
    def share(self) -> float | None:
        """The provider's drift: the share of the compared pictures that are different, 0 to 1."""
        compared = self.outcomes["identical"] + self.outcomes["near"] + self.outcomes["different"]
        return self.outcomes["different"] / compared if compared else None


def compared(data_dir: UPath, row: Mapping[str, Any], locked: Mapping[str, Any]) -> tuple[Outcome, int | None]:
    """Compare a picture of a resample with the locked one.

    Args:
        data_dir: The data directory.
        row: `image_path`, `image_sha256` and `input_kept_sha256` of the new picture, null where there is none.
        locked: `image_path`, `output_sha256` and `input_sha256` of the lock's row.

    Returns:
        The outcome, and the distance of the perceptual hashes in bits, where both pictures can be read.
    """
    if row["image_path"] is None:
        return "no_picture", None
    made_from = row["input_kept_sha256"]
    if made_from is not None and locked["input_sha256"] not in (None, made_from):
        return "not_compared", None
    if row["image_sha256"] == locked["output_sha256"]:
        return "identical", 0
    old_path = split_path(locked["image_path"])
    if old_path is None or sha256_of(data_dir, old_path) != locked["output_sha256"]:
        return "not_compared", None
    try:
        old, new = (read_picture(data_dir / path) for path in (locked["image_path"], row["image_path"]))
    except UnreadablePicture:
        return "not_compared", None
    bits = distance(perceptual_hash(old), perceptual_hash(new))
    return "near" if bits <= NEAR else "different", bits


def write_result(folder: UPath, table: pa.Table) -> None:
    """Write the table of a resample into its folder. The resample is finished then.

    Raises:
        OSError: The table can't be written.
    """

    def write(temporary: Path) -> None:
        pq.write_table(table.cast(SCHEMA), temporary, compression="zstd")

    write_atomically(folder / RESULT, write)


def drift_of(table: pa.Table) -> Drift:
    """Sum up the table of a resample."""
    bits = [value for value in table["distance"].to_pylist() if value is not None]
    return Drift(
        str(table["resample"][0]),
        Counter(table["outcome"].to_pylist()),
        sum(bits) / len(bits) if bits else None,
        round(sum(table["cost_usd"].to_pylist()), 6),
    )


def read_drifts(folder: UPath) -> Iterator[Drift]:
    """Yield what each finished resample in the folder of resamples found, from the first to the last.

    Raises:
        ResampleError: A table can't be read.
    """
    for path in sorted(folder.glob(f"*/{RESULT}"), key=str) if folder.is_dir() else ():
        try:
            with path.open("rb") as file:
                table = pq.read_table(file, schema=SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise ResampleError(f"{path} can't be read as Parquet ({error}). Move it away.") from None
        if table.num_rows:
            yield drift_of(table)
