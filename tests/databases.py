"""A fresh database for a test, on every kind of server that the store runs on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from dsp.store.database import create_engine
from dsp.store.migrate import upgrade
from tests.servers.postgres import Postgres

KINDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite database with the newest schema, to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "dsp.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite(migrated_file: Path, tmp_path: Path) -> str:
    """Return the URL of an empty SQLite database with the newest schema, dsp.db in the test's folder."""
    shutil.copy(migrated_file, tmp_path / "dsp.db")
    return f"sqlite:///{tmp_path / 'dsp.db'}"


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of an empty database with the newest schema: the test runs once on each kind.

    A module whose tests are of one kind alone has a fixture of this name.
    """
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        name = server.migrated()
        yield server.address(name)
        server.give_back(name)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Yield an engine on `database`."""
    found = create_engine(database)
    yield found
    found.dispose()


@pytest.fixture(params=KINDS)
def bare_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a database with nothing in it, not even a file."""
    yield from new_database(request, request.param, tmp_path / "bare.db")


def new_database(request: pytest.FixtureRequest, kind: str, file: Path) -> Iterator[str]:
    """Yield the URL of a bare database of one kind; SQLite's is the file given."""
    if kind == "sqlite":
        yield f"sqlite:///{file}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        name = server.empty()
        yield server.address(name)
        server.give_back(name)
