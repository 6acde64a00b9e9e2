"""What all tests share: the signals and the Dagster home they begin with, and PostgreSQL databases."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from sqlalchemy import text

POSTGRES_VARIABLE = "KONTEXT_TEST_POSTGRES"
DatabaseMaker = Callable[[], str]


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start.

    A shell starts its background jobs with SIGINT ignored, and a process passes that on to its children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each test process a Dagster home of its own, whatever the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster-home")))
        yield


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[sqlalchemy.Engine]:
    """Connections to the server that `KONTEXT_TEST_POSTGRES` names. A server that doesn't answer fails the test."""
    url = os.environ.get(POSTGRES_VARIABLE)
    if not url:
        pytest.skip(
            f"{POSTGRES_VARIABLE} is not set: it names a PostgreSQL server where databases may be created, "
            "as postgresql://USER@HOST:PORT/DATABASE"
        )
    named = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg2")
    engine = sqlalchemy.create_engine(named, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10})
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_maker(_postgres_server: sqlalchemy.Engine) -> Iterator[DatabaseMaker]:
    """Make empty PostgreSQL databases and return their URLs. They are dropped after the test."""
    names: list[str] = []

    def make() -> str:
        names.append(f"kontext_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{uuid.uuid4().hex}")
        with _postgres_server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {names[-1]}"))
        return _postgres_server.url.set(database=names[-1]).render_as_string(hide_password=False)

    try:
        yield make
    finally:
        with _postgres_server.connect() as connection:
            for name in names:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def postgres(postgres_maker: DatabaseMaker) -> str:
    """The URL of an empty PostgreSQL database, dropped after the test."""
    return postgres_maker()
