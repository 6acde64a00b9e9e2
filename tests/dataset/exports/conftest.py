from pathlib import Path

import pytest
from upath import UPath

from tests.dataset.exports.made_datasets import MadeDataset


@pytest.fixture
def dataset(tmp_path: Path) -> MadeDataset:
    """An empty data directory."""
    return MadeDataset(UPath(tmp_path / "data"))
