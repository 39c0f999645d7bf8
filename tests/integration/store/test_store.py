"""The store on real databases: migrations, transactions of several processes, and the revision."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, event, text

from dsp.api.batch import apply, operations
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.kernel.errors import ConflictError, NotFoundError, TransitionError, ValidationError
from dsp.ledger.book import Response
from dsp.pricing.value import conversion_worths
from dsp.store import book_tables, migrations
from dsp.store.book import BookRepository, DayResult
from dsp.store.catalog import CatalogRepository, load_catalogue, revision
from dsp.store.database import create_engine, session_factory
from dsp.store.migrate import current, head, upgrade
from dsp.store.results import sum_results
from dsp.store.tables import Base
from tests.notices import bids_sent

FLIGHT = {"start_ms": 0}


def _chain(repository: CatalogRepository) -> tuple[int, int, int]:
    advertiser = repository.create(Kind.ADVERTISER, {"name": "A", "domain": "a.example"})
    campaign = repository.create(Kind.CAMPAIGN, {"name": "C", "advertiser_id": advertiser.id, "flight": FLIGHT})
    goal = {"kind": "cpm", "target_micros": 1}
    fields = {"name": "L", "campaign_id": campaign.id, "flight": FLIGHT, "goal": goal}
    return advertiser.id, campaign.id, repository.create(Kind.LINE_ITEM, fields).id


def test_the_migrations_make_the_tables_that_the_code_names(engine: Engine) -> None:
    assert book_tables.Base is Base
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_book_from_before_results_were_kept_goes_on(database: str) -> None:
    engine = create_engine(database)
    days = (
        "INSERT INTO book_day (line_item_id, day, campaign_id, advertiser_id, spend_micros, late_micros, impressions)"
    )
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.downgrade(config, "0002_book")
        connection.execute(text(f"{days} VALUES (3, 20000, 2, 1, 80, 5, 2)"))
    engine.dispose()
    upgrade(database)
    engine = create_engine(database)
    click = Response(
        bid_id="b", kind="click", conversion_rule_id=0, at_ms=1, advertiser_id=1, campaign_id=2, line_item_id=3,
        creative_id=4, exchange="demo", day=20_000, hour=480_000, value_micros=0,
    )  # fmt: skip
    with session_factory(engine).begin() as session:
        book = BookRepository(session)
        book.apply([click], {0: 1})
        assert book.days() == [DayResult(1, 2, 3, 20_000, 80, 5, 2, 0, 1, 0, 0)]
        # Nobody knows any more by which creative what came before was; no report leaves it out.
        by_creative = sum_results(session, ["creative_id"], {}, (None, None), 9)
        names = ("creative_id", "spend_micros", "impressions", "clicks")
        assert [tuple(row[name] for name in names) for row in by_creative] == [(0, 80, 2, 0), (4, 0, 0, 1)]
    engine.dispose()


def test_a_ledger_that_does_not_count_bids_goes_on_beside_one_that_does(engine: Engine) -> None:
    """Workers are replaced one after the other once the schema is new."""
    columns = (
        "line_item_id, day, campaign_id, advertiser_id, spend_micros, late_micros, impressions, value_micros, clicks,"
        " conversions, conversion_value_micros"
    )
    with session_factory(engine).begin() as session:
        session.execute(text(f"INSERT INTO book_day ({columns}) VALUES (3, 20000, 2, 1, 80, 5, 2, 0, 0, 0, 0)"))
        book = BookRepository(session)
        book.apply([bids_sent(1, 9)], {0: 1})
        assert book.days() == [DayResult(1, 2, 3, 20_000, 80, 5, 2, 0, 0, 0, 0, bids=9)]


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    with session_factory(engine).begin() as session:
        _chain(CatalogRepository(session, "t", 1))
    assert upgrade(engine.url.render_as_string(hide_password=False)) == head() == current(engine)
    with session_factory(engine)() as session:
        assert revision(session) == 3


def test_processes_may_migrate_at_once(bare_database: str) -> None:
    environment = {**os.environ, "DSP_PLATFORM_DATABASE_URL": bare_database}
    command = [sys.executable, "-m", "dsp", "migrate"]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, complaint = process.communicate(timeout=180)
        assert (process.returncode, complaint) == (0, b"")


def test_a_write_is_whole_or_not_at_all(engine: Engine) -> None:
    sessions = session_factory(engine)

    def write() -> None:
        with sessions.begin() as session:
            repository = CatalogRepository(session, "t", 1)
            _chain(repository)
            repository.create(Kind.ADVERTISER, {})

    with pytest.raises(ValidationError):
        write()
    with sessions() as session:
        assert revision(session) == 0
        assert load_catalogue(session)[1].advertisers == ()


def test_the_revision_counts_writes_and_nothing_else(engine: Engine) -> None:
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        advertiser, campaign, _ = _chain(repository)
        assert revision(session) == 3
        repository.update(Kind.CAMPAIGN, campaign, {"name": "C"})  # the same
        repository.set_status(Kind.CAMPAIGN, campaign, Status.DRAFT)  # the same
        assert revision(session) == 3
        repository.set_status(Kind.ADVERTISER, advertiser, Status.ACTIVE)
        assert revision(session) == 4


def test_the_catalogue_leaves_out_what_is_archived_and_what_is_below_it(engine: Engine) -> None:
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        _chain(repository)
        _, gone, _ = _chain(repository)
        repository.set_status(Kind.CAMPAIGN, gone, Status.ARCHIVED)
        number, catalogue = load_catalogue(session)
        assert number == 7
        assert [one.id for one in catalogue.advertisers] == [1, 2]
        assert [one.id for one in catalogue.campaigns] == [1]
        assert [one.id for one in catalogue.line_items] == [1]
        assert catalogue.line_items[0] == repository.get(Kind.LINE_ITEM, 1)


def test_of_conversion_rules_the_catalogue_has_the_active_alone(engine: Engine) -> None:
    """What a conversion is worth under the others is nothing to bid for."""
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        advertiser_id, _, _ = _chain(repository)
        for name, value_micros in (("a", 1_000_000), ("b", 1_000_000_000), ("c", 1_000_000_000)):
            rule = {"name": name, "advertiser_id": advertiser_id, "value_micros": value_micros}
            number = repository.create(Kind.CONVERSION_RULE, rule).id
            for status in {"a": [Status.ACTIVE], "b": [], "c": [Status.ACTIVE, Status.PAUSED]}[name]:
                repository.set_status(Kind.CONVERSION_RULE, number, status)
        rules = load_catalogue(session)[1].conversion_rules
    assert [rule.name for rule in rules] == ["a"]
    assert conversion_worths(rules) == {advertiser_id: 1_000_000}


def test_refusals(engine: Engine) -> None:
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        _, campaign, _ = _chain(repository)
        with pytest.raises(NotFoundError):
            repository.get(Kind.CAMPAIGN, 2**70)
        with pytest.raises(ConflictError):
            repository.update(Kind.CAMPAIGN, campaign, {"name": "x"}, if_version=2)
        with pytest.raises(TransitionError):
            repository.set_status(Kind.CAMPAIGN, campaign, Status.PAUSED)


def test_an_advertiser_keeps_its_days_once_it_has_bid(engine: Engine) -> None:
    """Else the day that has begun elsewhere has a second daily budget, and a report mixes the days of two zones."""
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "test", 0)
        mine, others = (
            repository.create(Kind.ADVERTISER, {"name": name, "domain": "a.example"}).id for name in ("A", "B")
        )
        repository.update(Kind.ADVERTISER, mine, {"timezone": "America/New_York"})
        BookRepository(session).apply([bids_sent(1, 2, advertiser_id=mine)], {0: 1})
        with pytest.raises(ValidationError) as refused:
            repository.update(Kind.ADVERTISER, mine, {"timezone": "Pacific/Auckland"})
        assert [fault.field for fault in refused.value.faults] == ["timezone"]
        renamed = repository.update(Kind.ADVERTISER, mine, {"name": "C"})
        repository.update(Kind.ADVERTISER, others, {"timezone": "Pacific/Auckland"})
        # tzdata may drop a zone; on a host that has no such days any more nothing is mixed.
        session.execute(text("UPDATE advertiser SET timezone = 'Mars/Olympus_Mons' WHERE id = :id"), {"id": mine})
        assert repository.update(Kind.ADVERTISER, mine, {"timezone": "UTC"}).version == renamed.version + 1


def test_what_entities_are_judged_by_is_read_anew_once_it_was_changed(engine: Engine) -> None:
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        _, campaign, first = _chain(repository)
        fields = {"name": "M", "campaign_id": campaign, "flight": FLIGHT, "goal": {"kind": "cpm", "target_micros": 1}}
        second = repository.create(Kind.LINE_ITEM, fields).id
        repository.update(Kind.CAMPAIGN, campaign, {"budget": {"daily_micros": 1}})
        for status in (Status.ACTIVE, Status.PAUSED):
            repository.set_status(Kind.LINE_ITEM, first, status)
        repository.update(Kind.CAMPAIGN, campaign, {"budget": None})
        with pytest.raises(ValidationError, match="spend would have no bound"):
            repository.set_status(Kind.LINE_ITEM, second, Status.ACTIVE)


def test_a_batch_takes_about_one_statement_an_entity(engine: Engine) -> None:
    """It keeps the write lock for as long as they all take, and everybody else waits."""
    statements: list[str] = []
    count, budget = 40, {"daily_micros": 1}

    def make(wanted: list[dict[str, Any]]) -> list[Entity]:
        statements.clear()
        with session_factory(engine).begin() as session:
            return apply(CatalogRepository(session, "t", 1), Kind.LINE_ITEM, operations({"operations": wanted}, count))

    with session_factory(engine).begin() as session:
        campaign = _chain(CatalogRepository(session, "t", 1))[1]
        before = revision(session)
    fields = {"campaign_id": campaign, "flight": FLIGHT, "goal": {"kind": "cpm", "target_micros": 1}}
    event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    made: list[Entity] = []
    batches: list[list[dict[str, Any]]] = [
        [{"action": "create", "fields": {**fields, "name": "n", "external_id": str(one)}} for one in range(count)],
        [{"action": "update", "id": 2 + one, "fields": {"budget": budget}} for one in range(count)],
        [{"action": "activate", "id": 2 + one, "version": 2} for one in range(count)],
        # One after the other: what the first gives up the second may have.
        [
            {"action": "update", "id": 2, "fields": {"external_id": "x"}},
            {"action": "update", "id": 3, "fields": {"external_id": "0"}},
            {"action": "pause", "id": 2, "version": 4},
        ],
    ]
    for wanted in batches:
        made = make(wanted)
        assert len(statements) <= len(wanted) + 10
    assert [(one.id, one.version, one.external_id, one.status) for one in made] == [
        (2, 4, "x", Status.ACTIVE), (3, 4, "0", Status.ACTIVE), (2, 5, "x", Status.PAUSED),
    ]  # fmt: skip
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        assert repository.get(Kind.LINE_ITEM, 2) == made[2]
        assert [one.action for one in repository.versions(Kind.LINE_ITEM, 2)] == [
            "create", "update", "activate", "update", "pause",
        ]  # fmt: skip
        assert revision(session) == before + 3 * count + 3


def test_readers_do_not_wait_for_a_writer_and_see_only_what_is_committed(engine: Engine) -> None:
    reads, writes = session_factory(engine, read_only=True), session_factory(engine)
    with writes() as writer:
        _chain(CatalogRepository(writer, "t", 1))
        began = time.monotonic()
        with reads() as reader:
            assert revision(reader) == 0
        assert time.monotonic() - began < 4.0  # who waits for a lock waits five seconds
        writer.commit()
    with reads() as reader:
        assert revision(reader) == 3


def test_writers_take_turns(engine: Engine) -> None:
    """Each reads before it writes, which fails at once in a transaction that began as a reader's."""
    sessions, faults = session_factory(engine), []

    def write(name: str) -> None:
        try:
            for _ in range(10):
                with sessions.begin() as session:
                    repository = CatalogRepository(session, name, 1)
                    repository.list(Kind.ADVERTISER)
                    repository.create(Kind.ADVERTISER, {"name": name, "domain": "a.example"})
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with sessions() as session:
        assert revision(session) == 40


def test_an_sqlite_file_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'dsp.db'}")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 5_000
