"""A sandbox, a ledger and a data directory for runs of the generation loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.generation.runs import RunSpec
from tests.generation.stages import empty_ledger, stages
from tests.sandbox.running import Sandbox, kontext_sandbox

__all__ = ["empty_ledger", "kontext_sandbox", "spec", "stages"]

SpecMaker = Callable[..., RunSpec]


@pytest.fixture
def spec(kontext_sandbox: Sandbox, tmp_path: Path) -> SpecMaker:
    """Make run specs that share one ledger and one data directory."""

    def make(rows: range | list[int], **fields: Any) -> RunSpec:
        return RunSpec(
            **{
                "url": kontext_sandbox.url,
                "ledger": f"sqlite:///{tmp_path / 'ledger.db'}",
                "data_dir": str(tmp_path / "data"),
                "rescue": str(tmp_path / "rescue"),
                "rows": rows,
                **fields,
            }
        )

    return make
