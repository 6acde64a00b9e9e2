"""A sandbox, a ledger and a data directory for runs of the generation loop."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.generation.runs import RunSpec
from tests.sandbox.running import Sandbox, kontext_sandbox

__all__ = ["kontext_sandbox", "postgres", "spec"]

POSTGRES = os.environ.get("KONTEXT_TEST_POSTGRES", "postgresql+psycopg2://root@localhost:5432/test")

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


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a fresh PostgreSQL database."""
    admin = sqlalchemy.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"kontext_{uuid.uuid4().hex}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError as error:
        pytest.skip(f"no PostgreSQL at {POSTGRES} (KONTEXT_TEST_POSTGRES names another): {error.orig}")
    try:
        yield admin.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()
