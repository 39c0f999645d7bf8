"""What every test leaves as it found it, and the servers that any test may ask for."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.databases import bare_database, database, engine, migrated_file, sqlite
from tests.servers.kafka import brokers, kafka, kafka_server
from tests.servers.postgres import postgres
from tests.servers.valkey import own_valkey, valkey, valkey_cluster

# Other processes may have the machine: how long an example takes tells nothing.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 << 30


def _in_memory() -> bool:
    """Return whether memory has room for what tests write, and programs that they write may run there."""
    if not os.access(_MEMORY, os.W_OK):
        return False
    about = os.statvfs(_MEMORY)
    return about.f_bavail * about.f_frsize >= _ROOM_BYTES and not about.f_flag & os.ST_NOEXEC


# Tests kill processes, not machines: what a process has written outlives it without a disk to wait for.
if _in_memory():
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

__all__ = [
    "bare_database",
    "brokers",
    "database",
    "engine",
    "kafka",
    "kafka_server",
    "migrated_file",
    "own_valkey",
    "postgres",
    "sqlite",
    "valkey",
    "valkey_cluster",
]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up logging, to a stream that is gone after the test."""
    yield
    structlog.reset_defaults()
