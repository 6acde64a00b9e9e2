"""What manifests may hold and name, and which of their columns are ours: the settings that reading them follows."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kontext_pipeline.files import AnyPath

if TYPE_CHECKING:
    from kontext_pipeline.settings import Settings


class TooLargeError(Exception):
    """A manifest holds more than the settings allow. The text names the setting."""


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """How manifests are read.

    Attributes:
        columns: Our column names, each with the name that manifests have for it.
        input_roots: Folders that manifests may name pictures in, beside their own folders.
        private_inputs: Whether input images may be at addresses of a private network.
        max_rows: Most rows of a manifest, and most pictures that it requests.
        max_columns: Most columns of a manifest; nested fields count each.
        max_bytes: Most bytes of a manifest's content once it is decompressed, embedded pictures not counted.
        data_dir: Where embedded pictures are kept; None: they are checked and not kept.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    input_roots: tuple[Path, ...] = ()
    private_inputs: bool = False
    max_rows: int = 10_000_000
    max_columns: int = 1000
    max_bytes: int = 4096 * 2**20
    data_dir: "AnyPath | None" = None

    @classmethod
    def from_settings(cls, settings: "Settings") -> "ManifestOptions":
        """Return the options that the settings say."""
        return cls(
            columns=settings.column_mapping,
            input_roots=tuple(Path(folder).expanduser().absolute() for folder in settings.input_roots),
            private_inputs=settings.private_inputs,
            max_rows=settings.max_rows,
            max_columns=settings.max_columns,
            max_bytes=settings.max_manifest_mb * 2**20,
        )

    @property
    def mapping(self) -> str:
        """The columns as `KONTEXT_COLUMNS` has them, sorted; empty without any."""
        return shlex.join(f"{ours}={theirs}" for ours, theirs in sorted(self.columns.items()))

    def check_rows(self, count: int) -> None:
        """Raise a `TooLargeError` if a manifest has more rows than `max_rows`."""
        if count > self.max_rows:
            raise TooLargeError(
                f"has more than {self.max_rows:,} rows; split it, or raise KONTEXT_MAX_ROWS (a million rows take "
                "about 0.6 GB of memory)"
            )

    def check_columns(self, count: int) -> None:
        """Raise a `TooLargeError` if a manifest has more columns than `max_columns`."""
        if count > self.max_columns:
            raise TooLargeError(
                f"has {count:,} columns or more, and {self.max_columns:,} are allowed; drop columns, or raise "
                "KONTEXT_MAX_COLUMNS"
            )

    def check_bytes(self, count: int) -> None:
        """Raise a `TooLargeError` if the content of a manifest has more bytes than `max_bytes`."""
        if count > self.max_bytes:
            raise TooLargeError(
                f"holds more than {self.max_bytes // 2**20:,} MB once it is decompressed; split it, or raise "
                "KONTEXT_MAX_MANIFEST_MB"
            )
