"""What an export is asked to be: its layout, its samples, and the shares of its splits."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kontext_pipeline.errors import KontextError

Layout: TypeAlias = Literal["imagefolder", "parquet", "webdataset", "pairs"]
Direction: TypeAlias = Literal["forward", "backward", "both"]
ImageFormat: TypeAlias = Literal["png", "jpg"]

SHARD_MB: Final[dict[str, int]] = {"parquet": 500, "webdataset": 1000}
"""Most megabytes (10^6 bytes) of a shard unless the user gives another limit. The other layouts have no shards."""
INVERSE_COLUMNS: Final = ("inverse_prompt", "inverse")
"""Where the instruction that undoes an edit is looked for: the first column that the dataset has."""


class ExportError(KontextError):
    """An export can't be made as it is asked for. An earlier export in the folder is as it was."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export is asked to be.

    Attributes:
        layout: How samples become files.
        validation: Share of the groups of input pictures that the split `validation` gets, 0 to 1.
        direction: `forward` edits the input picture into the generated one; `backward` the generated one into the
            input, by the inverse instruction; `both` has a sample for each.
        include_rejected: Whether rejected pictures are exported.
        max_shard_mb: Most megabytes (10^6 bytes) of a shard; None: `SHARD_MB`.
        image_format: The format of all pictures; None: pictures keep their bytes, except where the layout takes
            one format alone.
        seed: Part of the hash that decides the split of a group.
        inverse_column: The user's column with the inverse instruction; None: the first of `INVERSE_COLUMNS`.

    Raises:
        ExportError: A value is not allowed.
    """

    layout: Layout
    validation: float = 0.0
    direction: Direction = "forward"
    include_rejected: bool = False
    max_shard_mb: int | None = None
    image_format: ImageFormat | None = None
    seed: int = 0
    inverse_column: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ExportError(
                f"--validation is {self.validation}; a share from 0 up to, but not including, 1 is allowed."
            )
        if self.max_shard_mb is None:
            return
        if self.layout not in SHARD_MB:
            raise ExportError(
                f"--max-shard-mb is given, and the layout {self.layout} has no shards. Leave the option out, or choose "
                f"{' or '.join(SHARD_MB)}."
            )
        if self.max_shard_mb < 1:
            raise ExportError(f"--max-shard-mb is {self.max_shard_mb}; at least 1 is allowed.")

    @property
    def shard_bytes(self) -> int:
        """Most bytes of a shard."""
        return (self.max_shard_mb or SHARD_MB.get(self.layout, 500)) * 10**6
