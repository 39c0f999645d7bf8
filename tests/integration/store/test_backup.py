"""A backup taken under a running ledger, restored, goes on from its own position and ends as the original does."""

import asyncio
import random
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, select

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseWant, Limit
from dsp.catalog.kinds import Kind
from dsp.events.schema import NoticeKind, encode
from dsp.kernel.clock import SystemClock
from dsp.store.book import BookRepository
from dsp.store.catalog import CatalogRepository, load_catalogue
from dsp.store.database import create_engine, session_factory
from dsp.store.tables import Base
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob
from tests.commands import dsp, environment
from tests.databases import new_database
from tests.notices import notice
from tests.servers.postgres import PASSWORD

BIDS = 600


@pytest.fixture
def other(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a second database of the same kind, with nothing in it."""
    yield from new_database(request, database.partition(":")[0].partition("+")[0], tmp_path / "other.db")


@pytest.fixture
def programs(request: pytest.FixtureRequest, database: str) -> Path:
    """Return the folder of pg_dump and pg_restore, where they are needed."""
    return request.getfixturevalue("postgres").programs if database.startswith("postgresql") else Path("/nowhere")


def _dsp(address: str, *arguments: str, path: Path = Path("/nowhere"), status: int = 0) -> str:
    """Run a command on a database; it must end with `status`."""
    settings = {"DSP_PLATFORM_DATABASE_URL": address, "PATH": str(path)}
    said = "".join(dsp(settings, *arguments, status=status))
    assert PASSWORD not in said
    return said


async def _lease(data: Path) -> tuple[str, list[Entry]]:
    """Lease money; return the lease's id, and notices of many bids on it, some of them twice."""
    clock = SystemClock()
    leases = LocalLeaseStore(data / "leases.db", "NORMAL")
    await leases.open()
    now_ms = clock.now_ms()
    day = now_ms // 86_400_000
    await leases.set_limits([Limit(3, 2, None, None, None, None)])
    epoch = await leases.register("bidder", now_ms)
    (lease,) = (await leases.sync(epoch, now_ms, [LeaseWant(3, day, 10**6)], {}, now_ms + 600_000)).leases
    facts = {"lease_id": lease.lease_id, "day": day, "expires_at_ms": now_ms + 600_000}
    events = [notice(number, cost_micros=10, **facts) for number in range(BIDS)]
    events += [notice(number, cost_micros=10, **facts) for number in range(0, BIDS, 3)]
    events += [notice(number, NoticeKind.CLICK, 0, **facts) for number in range(0, BIDS, 5)]
    events += [notice(number, NoticeKind.LOSS, **facts) for number in range(BIDS, BIDS + 50)]
    random.Random(5).shuffle(events)
    await leases.close()
    return lease.lease_id, [Entry("3", encode(one)) for one in events]


async def _append(data: Path, entries: list[Entry]) -> None:
    log = LocalEventLog(data / "log", SystemClock())
    await log.open()
    await log.append("notices", entries)
    await log.close()


class _Ledger:
    """A ledger worker on one database, stepped by hand."""

    def __init__(self, address: str, data: Path) -> None:
        clock = SystemClock()
        self._engine = create_engine(address)
        log, leases = LocalEventLog(data / "log", clock), LocalLeaseStore(data / "leases.db")
        self._job = LedgerJob(self._engine, log, leases, WorkersConfig(batch_records=20, wait_ms=1))

    async def __aenter__(self) -> LedgerJob:
        await self._job.open()
        return self._job

    async def __aexit__(self, *_: object) -> None:
        await self._job.close()
        self._engine.dispose()


def _book(address: str) -> dict[str, list[tuple[Any, ...]]]:
    engine = create_engine(address)
    tables: list[Table] = [one for one in Base.metadata.sorted_tables if one.name.startswith("book_")]
    with engine.connect() as connection:
        found = {one.name: sorted(tuple(row) for row in connection.execute(select(one))) for one in tables}
    engine.dispose()
    return found


async def test_a_restored_book_goes_on_from_its_own_position(
    database: str, other: str, programs: Path, tmp_path: Path
) -> None:
    lease_id, entries = await _lease(tmp_path)
    await _append(tmp_path, entries[: len(entries) // 2])
    file = tmp_path / "dsp.backup"
    async with _Ledger(database, tmp_path) as ledger:
        for _ in range(5):
            await ledger.step()
        settings = environment({"DSP_PLATFORM_DATABASE_URL": database, "PATH": str(programs)})
        copying = await asyncio.create_subprocess_exec(sys.executable, "-m", "dsp", "backup", str(file), env=settings)
        while copying.returncode is None:  # the ledger does not stop for it
            await ledger.step()
        assert copying.returncode == 0
        await _append(tmp_path, entries[len(entries) // 2 :])
        while await ledger.step():
            pass
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    said = _dsp(other, "restore", str(file), path=programs)
    assert "out of balance by 0 micros" in said
    assert "ledger goes on in notices at 0: " in said
    original, restored = _book(database), _book(other)
    assert 0 < len(restored["book_transaction"]) < len(original["book_transaction"]) == BIDS
    async with _Ledger(other, tmp_path) as ledger:
        while await ledger.step():
            pass
    assert _book(other) == original
    engine = create_engine(other)
    with session_factory(engine, read_only=True)() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.imbalance()) == (BIDS, 0)
        assert book.spent_by_lease() == {lease_id: BIDS * 10}
    engine.dispose()
    assert _dsp(other, "audit") == _dsp(database, "audit")


def test_the_catalogue_comes_back_as_it_was(database: str, other: str, programs: Path, tmp_path: Path) -> None:
    engine = create_engine(database)
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        first = repository.create(Kind.ADVERTISER, {"name": "Ä", "domain": "a.example", "categories": ["IAB1"]})
        catalogue = load_catalogue(session)
    engine.dispose()
    _dsp(database, "backup", str(tmp_path / "b"), path=programs)
    _dsp(other, "restore", str(tmp_path / "b"), path=programs)
    engine = create_engine(other)
    with session_factory(engine).begin() as session:
        assert load_catalogue(session) == catalogue
        after = CatalogRepository(session, "t", 1).create(Kind.ADVERTISER, {"name": "B", "domain": "b.example"})
        assert after.id == first.id + 1
    engine.dispose()


def test_refusals(database: str, other: str, programs: Path, tmp_path: Path) -> None:
    file = tmp_path / "b"
    _dsp(database, "backup", str(file), path=programs)
    assert "exists" in _dsp(database, "backup", str(file), path=programs, status=1)
    assert "empty" in _dsp(database, "restore", str(file), path=programs, status=1)
    _dsp(other, "restore", str(tmp_path / "none"), path=programs, status=1)
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"PGDMP" + b"\0" * 100 if other.startswith("postgresql") else file.read_bytes()[:8_192])
    _dsp(other, "restore", str(rubbish), path=programs, status=1)
    (tmp_path / "no backup").write_bytes(b"SQLite format 3\0" if other.startswith("postgresql") else b"PGDMP")
    assert "no backup" in _dsp(other, "restore", str(tmp_path / "no backup"), path=programs, status=1)
    _dsp(other, "restore", str(file), path=programs)  # none of these refusals has left anything
    if other.startswith("postgresql"):
        assert "pg_dump" in _dsp(other, "backup", str(tmp_path / "c"), status=1)
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_one_of_several_servers_is_copied(database: str, programs: Path, tmp_path: Path) -> None:
    """And what may be in a password cannot be taken for anything else."""
    user, _, place = database.rpartition("@")
    host, _, name = place.partition("/")
    several = (
        f"{user.replace(PASSWORD, 'it%27s%5C%20')}@/{name}?host=127.0.0.1:1&host={host}&application_name=it%27s%5C"
    )
    _dsp(several, "backup", str(tmp_path / "b"), path=programs)
    assert (tmp_path / "b").stat().st_size > 0


def test_a_book_that_was_tampered_with_fails_the_audit(database: str) -> None:
    engine = create_engine(database)
    with session_factory(engine).begin() as session:
        session.execute(
            Base.metadata.tables["book_day"].insert(),
            dict.fromkeys((column.name for column in Base.metadata.tables["book_day"].c), 7),
        )
    engine.dispose()
    assert "out of balance by 14 micros" in _dsp(database, "audit", status=1)
