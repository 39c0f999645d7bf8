"""Valkey, or Redis, for tests: see deploy/dev/valkey.py. One alone, or a cluster of three."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.dev import valkey as server
from deploy.dev.valkey import Cluster, Valkey
from tests.servers import absent, free_port

#: For lease stores of tests whose time is made up: no holder's clock is too far off the server's.
ANY_CLOCK_MS = 1 << 50
#: What leases ask for is on the disk at once: else each test would wait for seconds that pass by themselves.
SYNCS_ALWAYS = ("--appendfsync", "always")


def program() -> str:
    """Return the server's program, or skip the test."""
    try:
        return server.program()
    except LookupError as fault:
        absent(str(fault))


def server_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of what a contract suite's parameter names, `redis` or `cluster`; "" for the embedded store."""
    if request.param == "local":
        return ""
    server = request.getfixturevalue({"redis": "valkey", "cluster": "valkey_cluster"}[request.param])
    return str(server.url)


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A running server, the same for all tests of a process; a test that ends it must start it again."""
    with tempfile.TemporaryDirectory(prefix="dsp-valkey-") as folder:
        server = Valkey(program(), Path(folder), *SYNCS_ALWAYS, port=free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A running server of the test's own, to be killed and emptied."""
    server = Valkey(program(), tmp_path, *SYNCS_ALWAYS, port=free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[Cluster]:
    """A running cluster, the same for all tests of a process."""
    with tempfile.TemporaryDirectory(prefix="dsp-valkey-") as folder:
        cluster = Cluster(program(), Path(folder), *SYNCS_ALWAYS)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
