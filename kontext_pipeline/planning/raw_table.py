"""What a reader makes of a manifest's file, before columns and values are checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LARGEST_ROW_BYTES: Final = 2**26
"""Most bytes of one row of text."""


class UnreadablePicturesError(Exception):
    """A column of pictures can't be read. The text says why."""


@dataclass(slots=True)
class RawTable:
    """The content of a manifest's file. Names of columns may be blank or there more than once.

    Attributes:
        table: The values as the file has them: text from CSV and TSV, typed columns from JSON Lines and Parquet.
        numbers: The number of each row in the file, from 1, without the header and blank lines.
        has_bad_rows: Rows are missing because they can't be read, and are problems already.
        pictures: Reads the column of input images, some rows at a time, where it holds pictures; `table` has nulls in
            their place, so that they are never in memory together. Raises an `UnreadablePicturesError`.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    has_bad_rows: bool = False
    pictures: Callable[[], Iterator[pa.Array]] | None = None
