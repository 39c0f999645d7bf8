"""A database that is away, slow, locked or gone in mid-transaction: what callers see, and that nothing is half done."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from dsp.catalog.kinds import Kind
from dsp.events.schema import Notice
from dsp.kernel.errors import ConfigError, UnavailableError
from dsp.ledger.apply import entry
from dsp.store.backup import backup
from dsp.store.book import Applied, BookRepository
from dsp.store.catalog import CatalogRepository, load_catalogue, revision
from dsp.store.database import create_engine, session_factory
from dsp.store.migrate import current, head, serves, upgrade
from dsp.store.tables import ApiKeyRow, RevisionRow
from tests.notices import FACTS, notice
from tests.servers import free_port
from tests.servers.postgres import PASSWORD, Postgres

_ADVERTISER = {"name": "A", "domain": "a.example"}


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    name = postgres.migrated()
    yield postgres.address(name)
    postgres.give_back(name)


def _enter(session: Session, notices: list[Notice]) -> Applied:
    entries = [found for one in notices if (found := entry(one, 6_000)) is not None]
    return BookRepository(session).apply(entries, {})


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        "postgresql://dsp:hunter2@host:hunter2/dsp",
        "mysql://dsp:hunter2@host/dsp",
        "postgresql+nothing://dsp:hunter2@host/dsp",
        "hunter2",
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(wrong: str) -> None:
    with pytest.raises(ConfigError) as refused:
        create_engine(wrong)
    assert "database_url" in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_a_database_that_is_away_is_unavailable_and_its_password_is_not_told() -> None:
    away = f"postgresql+psycopg://dsp:{PASSWORD}@127.0.0.1:{free_port()}/dsp"
    engine = create_engine(away)
    with session_factory(engine)() as session, pytest.raises(UnavailableError) as fault:
        revision(session)
    with pytest.raises(UnavailableError) as other:
        upgrade(away)
    assert PASSWORD not in f"{fault.value!r} {other.value!r} {engine!r}"


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "dsp.db").mkdir()  # as nobody may write it, or its file system is read-only: SQLite says the same
    address, backup_file = f"sqlite:///{tmp_path / 'dsp.db'}", tmp_path / "backup"
    attempts: list[Callable[[], object]] = [lambda: upgrade(address), lambda: backup(address, backup_file)]
    for attempt in attempts:
        with pytest.raises(UnavailableError, match=re.escape(str(tmp_path / "dsp.db"))):
            attempt()
    assert list(tmp_path.iterdir()) == [tmp_path / "dsp.db"]


def test_a_database_without_the_schema_is_unavailable(bare_database: str) -> None:
    engine = create_engine(bare_database)
    with session_factory(engine)() as session, pytest.raises(UnavailableError):
        revision(session)
    engine.dispose()


def test_a_session_outlives_a_restart_of_the_server_but_its_transaction_does_not(
    postgres: Postgres, engine: Engine
) -> None:
    sessions = session_factory(engine)
    with sessions() as session:
        CatalogRepository(session, "t", 1).create(Kind.ADVERTISER, _ADVERTISER)
        postgres.kill()
        with pytest.raises(UnavailableError):
            session.commit()
        session.rollback()
        postgres.start()
        assert revision(session) == 0
    with sessions.begin() as session:
        CatalogRepository(session, "t", 1).create(Kind.ADVERTISER, _ADVERTISER)
    postgres.kill()
    postgres.start()
    with sessions() as session:  # committed is committed
        assert revision(session) == 1


def test_a_row_that_stays_locked_is_unavailable(database: str) -> None:
    engine = create_engine(f"{database}?options=-c%20lock_timeout%3D100")
    sessions = session_factory(engine)
    with sessions() as first, sessions() as second:
        first.execute(update(RevisionRow).values(revision=5))
        with pytest.raises(UnavailableError, match="lock timeout"):
            CatalogRepository(second, "t", 1).create(Kind.ADVERTISER, _ADVERTISER)
    engine.dispose()


def test_a_statement_that_takes_too_long_is_unavailable(database: str) -> None:
    engine = create_engine(f"{database}?options=-c%20statement_timeout%3D100")
    with session_factory(engine)() as session, pytest.raises(UnavailableError, match="timeout"):
        session.execute(text("SELECT pg_sleep(10)"))
    engine.dispose()


def test_who_is_paused_in_a_transaction_keeps_nobody_waiting_for_long(database: str) -> None:
    engine = create_engine(f"{database}?options=-c%20idle_in_transaction_session_timeout%3D1000")
    sessions = session_factory(engine)
    with sessions() as paused:
        CatalogRepository(paused, "t", 1).create(Kind.ADVERTISER, _ADVERTISER)
        with sessions.begin() as session:  # waits for the other's lock until it is cut off
            CatalogRepository(session, "t", 1).create(Kind.ADVERTISER, _ADVERTISER)
        with pytest.raises(UnavailableError):
            paused.commit()
        paused.rollback()
        assert revision(paused) == 1
    engine.dispose()


def test_time_outs_are_set_where_the_url_sets_none(engine: Engine) -> None:
    with engine.connect() as connection:
        shown = [
            connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        ]
    assert shown == ["5s", "30s", "30s"]


def test_of_several_servers_the_one_that_can_be_written_is_used(postgres: Postgres, database: str) -> None:
    name = database.rpartition("/")[2]
    hosts = f"host=127.0.0.1:{free_port()}&host=127.0.0.1:{postgres.port}"
    engine = create_engine(f"postgresql://dsp:{PASSWORD}@/{name}?{hosts}&target_session_attrs=read-write")
    with session_factory(engine)() as session:
        assert revision(session) == 0
        assert session.execute(text("SHOW lock_timeout")).scalar() == "5s"
    engine.dispose()


def test_of_two_who_wait_for_each_other_one_is_told_to_try_again(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            ApiKeyRow.__table__.insert(),
            [{"name": n, "prefix": n, "hash": n, "role": "viewer", "created_ms": 1} for n in ("a", "b")],
        )
    sessions, faults = session_factory(engine), []
    barrier = threading.Barrier(2, timeout=60)

    def lock(first: str, second: str) -> None:
        try:
            with sessions.begin() as session:
                session.execute(select(ApiKeyRow).where(ApiKeyRow.name == first).with_for_update())
                barrier.wait()
                session.execute(select(ApiKeyRow).where(ApiKeyRow.name == second).with_for_update())
        except Exception as fault:
            faults.append(fault)

    _at_once([lambda: lock("a", "b"), lambda: lock("b", "a")])
    assert [type(fault) for fault in faults] == [UnavailableError]


def test_a_reader_sees_one_state_and_writes_nothing(engine: Engine) -> None:
    with session_factory(engine, read_only=True)() as reader:
        assert revision(reader) == 0
        with session_factory(engine).begin() as writer:
            CatalogRepository(writer, "t", 1).create(Kind.ADVERTISER, _ADVERTISER)
        assert load_catalogue(reader)[1].advertisers == ()
        with pytest.raises(UnavailableError, match="read-only"):
            reader.execute(update(RevisionRow).values(revision=5))


def test_a_database_that_is_newer_serves_and_is_left_alone(database: str) -> None:
    engine = create_engine(database)
    newer = f"{int(head().partition('_')[0]) + 1:04}_later"
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{newer}'"))
    assert upgrade(database) == current(engine) == newer
    assert serves(newer)
    assert not serves(None)
    assert not serves("0001_catalogue")
    engine.dispose()


def test_two_ledgers_add_to_the_same_sums(database: str) -> None:
    """Each enters batches of its own bids; both touch the same days and leases, in opposite orders."""
    engine = create_engine(database)
    sessions = session_factory(engine)
    days, batches = 10, 12

    def work(ledger: int) -> None:
        for batch in range(batches):
            bids = [
                notice(1_000 * ledger + days * batch + day, cost_micros=10, day=day, lease_id=f"l-{day}")
                for day in (range(days) if ledger else reversed(range(days)))
            ]
            with sessions.begin() as session:
                _enter(session, bids)

    _at_once([lambda: work(0), lambda: work(1)])
    with sessions() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.imbalance()) == (2 * days * batches, 0)
        assert [one.spend_micros for one in book.days()] == [10 * 2 * batches] * days
        assert book.spent_by_lease() == {f"l-{day}": 10 * 2 * batches for day in range(days)}
    engine.dispose()


def test_two_ledgers_that_enter_the_same_enter_it_once(database: str) -> None:
    """One of them may be told to try again; then it finds what the other has entered, and both know the leases."""
    engine = create_engine(database)
    sessions = session_factory(engine)
    batches = [[notice(number, cost_micros=10) for number in range(one, one + 20)] for one in range(0, 200, 20)]
    found: list[dict[str, int]] = []

    def work(ledger: int) -> None:
        for batch in batches:
            for attempt in range(5):
                try:
                    with sessions.begin() as session:
                        applied = _enter(session, batch if ledger else batch[::-1])
                except UnavailableError:
                    assert attempt < 4
                    continue
                break
        found.append(applied.leases)

    _at_once([lambda: work(0), lambda: work(1)])
    with sessions() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.imbalance()) == (200, 0)
        assert book.spent_by_lease() == {FACTS.lease_id: 2_000}
    assert found[-1] == {FACTS.lease_id: 2_000}
    engine.dispose()


def _at_once(works: list[object]) -> None:
    """Run each in a thread; what one of them raises is raised."""
    faults: list[BaseException] = []

    def run(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(one,)) for one in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if faults:
        raise faults[0]
