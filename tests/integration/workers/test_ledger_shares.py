"""Several ledger workers on one topic: each notice is entered once, and the leases' watermark waits for the slowest."""

import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from random import Random

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, insert

from dsp.cache.port import LeaseWant, Limit
from dsp.events.dead_letter import decode as decode_letter
from dsp.events.schema import NoticeKind, encode
from dsp.events.topics import Topic
from dsp.kernel.errors import UnavailableError
from dsp.kernel.metrics import POISON_RECORDS
from dsp.ledger.terms import NOTICE_GRACE_MS, SILENCE_MS_MAX
from dsp.store.book import BookRepository
from dsp.store.book_statements import LEASES
from dsp.store.database import session_factory
from dsp.workers.ledger import GROUP, HANDOVER_MS
from tests.integration.workers.ledgers import LEASE, World
from tests.notices import FACTS, bids_sent, notice

DAY_MS = 86_400_000
LABELS = {"topic": "notices", "group": GROUP}


async def test_two_workers_that_read_the_same_enter_it_once(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 1)
    world.partitions.add(0, *(encode(notice(number)) for number in range(5)))
    one, log, _ = await world.worker(0)
    two, _, _ = await world.worker(0)
    log.between = [two]  # it enters everything while the first, which has read it, does not know
    assert await one.step()  # the first lost, and looks again
    assert world.entered() == 5
    world.partitions.add(0, encode(notice(5)))
    await one.step()
    assert world.entered() == 6
    await two.step()
    await two.step()
    assert world.entered() == 6
    with world.views() as session:
        assert BookRepository(session).position() == {0: 6}
    await one.close()
    await two.close()


async def test_positions_are_good_for_their_log_alone(engine: Engine, tmp_path: Path) -> None:
    """In another that has grown beyond them, what lies before was acknowledged and would never be read."""
    world = World(engine, tmp_path, 1)
    world.partitions.add(0, *(encode(notice(number)) for number in range(3)))
    one, _, _ = await world.worker(0)
    await one.step()
    await one.close()
    other = World(engine, tmp_path, 1)
    other.partitions.add(0, *(encode(notice(number)) for number in range(3, 8)))
    two, log, _ = await other.worker(0)
    log.name = "kafka:two/notices"
    with pytest.raises(UnavailableError, match="goes on in the event log kafka:one/notices"):
        await two.step()
    assert world.entered() == 3
    with session_factory(engine).begin() as session:
        book = BookRepository(session)
        known = [book.position(name) for name in ("kafka:one/notices", log.name)]
        assert known == [{0: 3}, {}]  # nothing of the other log may be trimmed as read
        book.leave()
    await two.step()
    assert world.entered() == 8
    await two.close()


async def test_positions_of_a_book_that_does_not_know_their_log_become_those_of_the_next(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path, 1)
    world.partitions.add(0, *(encode(notice(number)) for number in range(2)))
    with session_factory(engine).begin() as session:
        BookRepository(session).apply([], {0: 1})  # as an earlier version does
    one, log, _ = await world.worker(0)
    await one.step()
    assert world.entered() == 1
    with world.views() as session:
        assert BookRepository(session).log() == log.name
    await one.close()


async def test_a_worker_says_whether_more_is_waiting_and_how_much(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 1)
    world.partitions.add(0, *(encode(notice(number)) for number in range(5)))
    one, log, _ = await world.worker(0)
    log.limit = 2
    found = [(await one.step(), REGISTRY.get_sample_value("dsp_consumer_lag_records", LABELS)) for _ in range(4)]
    assert found == [(True, 3), (True, 1), (False, 0), (False, 0)]
    log.share = set()
    world.partitions.add(0, encode(notice(5)))
    assert not await one.step()  # whoever has no share waits for one
    await one.close()


async def test_counts_of_bids_are_entered_once_whatever_comes_twice(engine: Engine, tmp_path: Path) -> None:
    """Delivered twice, read twice by two workers, and read again after one was killed in the middle of a batch."""
    parked = POISON_RECORDS.labels(topic=Topic.NOTICES)._value.get()
    world = World(engine, tmp_path, 2)
    first = [encode(bids_sent(1, 5)), encode(notice(1)), encode(bids_sent(2, 7)), encode(bids_sent(1, 5))]
    world.partitions.add(0, *first)
    world.partitions.add(1, encode(bids_sent(1, 100, "other")), encode(notice(2)))
    one, log, leases = await world.worker(0, 1)
    two, _, _ = await world.worker(0)
    log.between = [two]
    await one.step()
    await one.step()
    world.partitions.add(0, *first, encode(bids_sent(3, 11)))
    leases.away = True
    with pytest.raises(UnavailableError):
        await one.step()  # entered, and then it dies
    three, _, _ = await world.worker(0, 1)
    await three.step()
    with world.views() as session:
        (day,) = BookRepository(session).days()
    assert (day.bids, day.impressions) == (5 + 7 + 11 + 100, 2)
    assert POISON_RECORDS.labels(topic=Topic.NOTICES)._value.get() == parked
    for job in (one, two, three):
        await job.close()


async def test_a_worker_that_lost_one_partition_in_a_batch_enters_the_others(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 2)
    one, log, _ = await world.worker(0, 1)
    await one.step()
    for partition in (0, 1):
        world.partitions.add(partition, *(encode(notice(number + 10 * partition)) for number in range(3)))
    two, _, _ = await world.worker(1)
    log.between = [two]
    await one.step()
    assert world.entered() == 3  # its batch went back as a whole
    log.share = {0}
    await one.step()
    assert world.entered() == 6
    await one.close()
    await two.close()


async def test_the_watermark_is_that_of_the_slowest_partition(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 2)
    one, _, _ = await world.worker(0)
    await one.step()
    assert await world.watermark_ms() == 0  # nobody has read the other partition
    two, _, leases = await world.worker(1)
    await two.step()
    await one.step()
    assert await world.watermark_ms() == 5_000
    world.partitions.now_ms = 6_000
    world.partitions.add(1, encode(notice(1)))
    leases.away = True
    with pytest.raises(UnavailableError):
        await two.step()  # entered, and the leases do not know what their lease bears
    world.partitions.now_ms = 7_000
    await one.step()
    assert world.entered() == 1
    assert await world.watermark_ms() == 5_000
    leases.away = False
    await two.step()
    await one.step()
    assert await world.watermark_ms() == 7_000
    await one.close()
    await two.close()


async def test_what_a_dead_worker_did_not_tell_its_successor_tells(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 2)
    dead, _, leases = await world.worker(1)
    await leases.set_limits([Limit(3, 2, None, None, None, None)])
    world.partitions.add(1, encode(notice(1)))
    leases.away = True
    with pytest.raises(UnavailableError):
        await dead.step()
    heir, log, _ = await world.worker(0)
    await heir.step()
    log.share = {0, 1}
    await heir.step()
    assert await world.watermark_ms() == 5_000
    rows = await leases._file.read(lambda sql: sql.execute("SELECT lease_id, settled FROM leases").fetchall())
    assert rows == [(LEASE, 80)]
    await dead.close()
    await heir.close()


async def test_a_worker_that_begins_tells_the_leases_that_are_open_and_a_new_file_all(
    engine: Engine, tmp_path: Path
) -> None:
    """In a year there are more leases than memory holds."""
    old = {f"{epoch}-{item}-20000": 10 for epoch in range(1_000, 1_020) for item in range(3, 603)}
    world = World(engine, tmp_path, 1)
    world.partitions.add(0, encode(notice(1)))
    first, _, leases = await world.worker(0)
    with session_factory(engine).begin() as session:
        session.execute(insert(LEASES), [{"lease_id": name, "micros": micros} for name, micros in old.items()])
    await leases.set_limits([Limit(3, 2, None, 10_000, None, None)])
    await first.step()
    assert leases.told == [5_000, 5_000, 2_001, 1]  # an empty file has forgotten what was spent
    with closing(sqlite3.connect(tmp_path / "leases.db")) as file:
        total = "SELECT micros FROM used WHERE scope = ? AND id = ? AND day = -1"
        assert file.execute(total, ("line_item", 3)).fetchone() == (10 * 20 + 80,)
    epoch = await leases.register("bidder", 20_000 * DAY_MS)
    await leases.sync(epoch, 20_000 * DAY_MS, [LeaseWant(3, 20_000, 500)], {}, 0)
    await first.close()

    with session_factory(engine).begin() as session:  # by a worker that died before it told so
        session.execute(insert(LEASES), [{"lease_id": f"{epoch}-3-20000", "micros": 70}])
    second, _, leases = await world.worker(0)
    await second.step()
    assert leases.told == [1]
    report = await leases.sync(epoch, 20_000 * DAY_MS, [], {}, 0)
    assert [(one.granted_micros, one.settled_micros) for one in report.leases] == [(500, 70)]
    await second.close()


async def test_what_is_billed_on_a_lease_that_a_lost_file_knew_counts_for_its_campaign(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path, 1)
    one, _, leases = await world.worker(0)
    await one.step()
    world.partitions.add(0, encode(notice(1)))
    await one.step()
    used = "SELECT scope, id, micros FROM used WHERE day = -1 ORDER BY scope"
    assert await leases._file.read(lambda sql: sql.execute(used).fetchall()) == [
        ("campaign", 2, 80),
        ("line_item", 3, 80),
    ]
    await one.close()


async def test_a_stamp_beyond_the_watermark_counts_as_it_is(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 1)
    one, _, _ = await world.worker(0)
    await one.step()
    assert await world.watermark_ms() < FACTS.expires_at_ms
    world.partitions.now_ms = FACTS.expires_at_ms + NOTICE_GRACE_MS
    world.partitions.add(0, encode(notice(1)))
    await one.step()
    assert world.money() == (0, 80)
    await one.close()


async def test_a_stamp_behind_a_watermark_counts_as_late_as_the_watermark(engine: Engine, tmp_path: Path) -> None:
    """A broker whose clock was set back, or another that leads: what was promised about time holds all the same."""
    world = World(engine, tmp_path, 1)
    world.partitions.now_ms = FACTS.expires_at_ms + 2_000
    one, _, _ = await world.worker(0)
    await one.step()
    assert await world.watermark_ms() == FACTS.expires_at_ms + 2_000  # the bid's money may be somebody else's by now
    world.partitions.now_ms = 5_000
    world.partitions.add(0, encode(notice(1)))
    await one.step()
    assert world.money() == (0, 80)
    await one.close()


async def test_the_clock_stands_still_while_the_log_is_away_and_what_was_acknowledged_is_handed_over(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path, 2)
    one, log, _ = await world.worker(0)
    two, _, _ = await world.worker(1)
    await two.step()
    await one.step()
    assert await world.watermark_ms() == 5_000
    log.lost = True  # the second never notices; the watermark is the least
    world.clock.advance(NOTICE_GRACE_MS + 1)
    with pytest.raises(UnavailableError):
        await one.step()
    log.lost = False
    world.partitions.now_ms = FACTS.expires_at_ms + 10_000  # a minute later bidders hand over what they acknowledged
    world.partitions.add(0, encode(notice(1)))
    await two.step()
    await one.step()
    assert await world.watermark_ms() == 5_000  # so no reservation has ended that this is charged to
    assert world.money() == (80, 0)
    world.clock.advance(HANDOVER_MS)
    await one.step()
    assert await world.watermark_ms() == world.partitions.now_ms
    world.partitions.add(0, encode(notice(2)))
    await one.step()
    assert world.money() == (80, 80)  # late: what it could have been charged to is somebody else's by now
    await one.close()
    await two.close()


async def test_a_worker_that_begins_while_the_log_is_away_takes_what_is_handed_over_for_in_time(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path, 1)
    one, _, _ = await world.worker(0)
    await one.step()
    await one.close()
    heir, log, _ = await world.worker(0)  # as in a rolling restart
    log.lost = True
    with pytest.raises(UnavailableError):
        await heir.step()
    log.lost = False
    world.partitions.now_ms = FACTS.expires_at_ms + 10_000
    world.partitions.add(0, encode(notice(1)))
    await heir.step()
    assert await world.watermark_ms() == 5_000
    assert world.money() == (80, 0)
    world.clock.advance(HANDOVER_MS)
    await heir.step()
    assert await world.watermark_ms() == world.partitions.now_ms
    await heir.close()


async def test_the_successor_of_a_lone_worker_takes_no_stamp_to_be_before_the_watermark(
    engine: Engine, tmp_path: Path
) -> None:
    world = World(engine, tmp_path, 1)
    world.partitions.now_ms = FACTS.expires_at_ms + NOTICE_GRACE_MS
    one, _, _ = await world.worker(0)
    world.partitions.add(0, encode(notice(1)))
    await one.step()
    await one.close()
    world.partitions.now_ms = 5_000
    world.partitions.add(0, encode(notice(2)))
    heir, _, _ = await world.worker(0)
    await heir.step()
    assert world.money() == (0, 160)
    await heir.close()


@pytest.mark.parametrize("told", [True, False])
async def test_what_was_late_before_the_log_was_away_is_late_when_it_is_handed_over(
    engine: Engine, tmp_path: Path, told: bool
) -> None:
    """With the log the group's members lose their shares, and take them anew while watermarks stand still."""
    world = World(engine, tmp_path, 1)
    world.partitions.now_ms = FACTS.expires_at_ms + NOTICE_GRACE_MS
    one, log, leases = await world.worker(0)
    world.partitions.add(0, encode(notice(1)))
    leases.away = not told
    world.clock.advance(0 if told else SILENCE_MS_MAX + 1)  # so that the book does not wait for the lease store
    with nullcontext() if told else pytest.raises(UnavailableError):
        await one.step()
    assert world.money() == (0, 80)
    leases.away = False
    log.lost = True
    world.clock.advance(NOTICE_GRACE_MS + 1)
    with pytest.raises(UnavailableError):
        await one.step()
    log.lost, log.share = False, set()
    await one.step()
    log.share = {0}
    world.partitions.now_ms += 10_000
    world.partitions.add(0, encode(notice(2)))
    await one.step()
    assert world.money() == (0, 160)
    await one.close()


async def test_a_read_that_fails_once_holds_nothing(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 1)
    one, log, _ = await world.worker(0)
    await one.step()
    for now_ms in (6_000, 7_000, 8_000):  # a log that fails every second time must not stop the ledger's clock
        world.clock.advance(NOTICE_GRACE_MS)
        log.lost = True
        with pytest.raises(UnavailableError):
            await one.step()
        log.lost = False
        world.partitions.now_ms = now_ms
        await one.step()
        assert await world.watermark_ms() == now_ms
    await one.close()


async def test_poison_is_parked_and_what_stands_beside_it_is_entered(engine: Engine, tmp_path: Path) -> None:
    world = World(engine, tmp_path, 2)
    large = notice(3, cost_micros=80, line_item_id=1 << 63)
    values = [b"\xc1 no event", encode(notice(1)), encode(large), encode(notice(2)), encode(notice(9, NoticeKind.LOSS))]
    before = POISON_RECORDS.labels(topic="notices")._value.get()
    one, log, _ = await world.worker(0, 1)
    log.away = True
    world.partitions.add(0, *values)
    world.partitions.add(1, encode(notice(4)))
    with pytest.raises(UnavailableError):
        await one.step()  # it cannot be parked, so nothing moves past it
    assert world.entered() == 0
    log.away = False
    await one.step()
    assert world.entered() == 3
    letters = [decode_letter(entry.value) for entry in log.appended[Topic.DEAD_LETTERS]]
    assert [(one.topic, one.partition, one.offset, one.value, one.group) for one in letters] == [
        ("notices", 0, 0, values[0], "ledger"),
        ("notices", 0, 2, values[2], "ledger"),
    ]
    assert all(one.fault for one in letters)
    assert POISON_RECORDS.labels(topic="notices")._value.get() - before == 2
    with world.views() as session:
        assert BookRepository(session).position() == {0: 5, 1: 1}
    await one.close()


@pytest.mark.parametrize("auction_id", ["a\x00b", Random(0).randbytes(6_000).hex()], ids=["nul", "long"])
async def test_an_id_that_only_sqlite_holds_holds_nothing_up(engine: Engine, tmp_path: Path, auction_id: str) -> None:
    """PostgreSQL's text holds no NUL, and its indexes nothing as long."""
    world = World(engine, tmp_path, 1)
    world.partitions.add(0, encode(notice(1, auction_id=auction_id)), encode(notice(2)))
    one, log, _ = await world.worker(0)
    await one.step()
    parked = len(log.appended.get(Topic.DEAD_LETTERS, []))
    assert world.entered() + parked == 2
    assert parked == (engine.dialect.name == "postgresql")
    await one.close()
