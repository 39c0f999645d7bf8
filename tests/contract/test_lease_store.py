"""What every LeaseStore must do: the embedded one, one server's, a cluster's."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dsp.cache.local import LocalLeaseStore
from dsp.cache.local_leases import DAYS_KEPT, GRANT_MIN_MICROS
from dsp.cache.port import LeaseState, LeaseStore, LeaseWant, Limit
from dsp.cache.redis import RedisLeaseStore
from dsp.kernel.clock import MS_PER_DAY, MS_PER_MINUTE, ManualClock, SystemClock
from dsp.kernel.errors import ClockError, ConflictError, UnavailableError
from dsp.kernel.sqlite import SqliteFile
from dsp.ledger.terms import CLOCK_SKEW_MS_MAX, LateClaim, closes_ms
from tests.servers.valkey import ANY_CLOCK_MS, Valkey, server_url

MakeStore = Callable[[], Awaitable[LeaseStore]]
HOLDER_TIMEOUT_MS = 30_000
NOW_MS = ManualClock().now_ms()
DAY = NOW_MS // 86_400_000
#: No promise of these tests is beyond.
FAR_MS = NOW_MS + 10_000_000
UNLIMITED = (None, None, None, None)


@pytest.fixture(params=["local", "redis", "cluster"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """A maker of stores that share their leases, as several processes do."""
    opened: list[LeaseStore] = []
    url = server_url(request)

    async def make() -> LeaseStore:
        if not url:
            store: LeaseStore = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
            await store.open()
        else:
            store = RedisLeaseStore(url, ANY_CLOCK_MS)
            await store.open()
            for one in await store.standing():  # nothing was ever spent
                await store.restate(one.shard, one.generation, [], 0, FAR_MS)
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
async def store(make_store: MakeStore) -> LeaseStore:
    return await make_store()


async def ask(
    store: LeaseStore,
    epoch: int,
    *wants: tuple[int, int],
    day: int = DAY,
    now_ms: int = NOW_MS,
    promise_ms: int = 0,
    **returns: int,
) -> dict[int, LeaseState]:
    """Sync, and return the leases of `day` by line item; `L3=5` returns 5 of line item 3's lease."""
    given = {f"{epoch}-{name[1:]}-{day}": amount for name, amount in returns.items()}
    asked = [LeaseWant(item, day, amount) for item, amount in wants]
    report = await store.sync(epoch, now_ms, asked, given, promise_ms)
    return {lease.line_item_id: lease for lease in report.leases if lease.day == day}


async def test_grants_stop_at_the_smallest_of_the_four_limits(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    for item, budgets in enumerate(
        [(70, 500, 500, 500), (500, 70, 500, 500), (500, 500, 70, 500), (500, 500, 500, 70)], start=1
    ):
        await store.set_limits([Limit(item, item, *budgets)])
        assert (await ask(store, epoch, (item, 50)))[item].granted_micros == 50
        assert (await ask(store, epoch, (item, 50)))[item].granted_micros == 70
        assert (await ask(store, epoch, (item, 50)))[item].granted_micros == 70


async def test_no_bound_grants_what_is_wanted_and_no_limits_nothing(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    assert (await ask(store, epoch, (1, 10**15), (2, 10)))[1].granted_micros == 10**15
    assert 2 not in await ask(store, epoch)
    assert 1 in await ask(store, epoch, (1, 0), (1, -5))


async def test_who_is_alone_gets_all_that_is_left_to_the_last_micro(store: LeaseStore) -> None:
    await store.register("bidder", NOW_MS)
    epoch = await store.register("bidder", NOW_MS)  # which replaces the one before
    await store.set_limits([Limit(1, 1, None, 10**15 + 1, None, None)])
    assert (await ask(store, epoch, (1, 10**16)))[1].granted_micros == 10**15 + 1


async def test_competitors_take_parts_of_what_is_left_and_the_last_money_as_it_is_asked_for(store: LeaseStore) -> None:
    first, second = await store.register("first", NOW_MS), await store.register("second", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 8 * GRANT_MIN_MICROS, None, None)])
    for epoch in (first, second):
        await ask(store, epoch)
    assert (await ask(store, first, (1, 10**9)))[1].granted_micros == 2 * GRANT_MIN_MICROS  # half of a half
    assert (await ask(store, second, (1, 5 * GRANT_MIN_MICROS)))[1].granted_micros == 6 * GRANT_MIN_MICROS // 4
    for epoch in (second, first, second, first, second):
        await ask(store, epoch, (1, GRANT_MIN_MICROS))
    assert (await ask(store, second, (1, 1)))[1].granted_micros == 4 * GRANT_MIN_MICROS  # and so all is gone


async def test_who_registers_at_once_gets_an_epoch_of_his_own(make_store: MakeStore) -> None:
    stores = [await make_store() for _ in range(4)]
    epochs = await asyncio.gather(*(one.register(f"b{index}", NOW_MS) for index, one in enumerate(stores)))
    assert len(set(epochs)) == 4
    for one, epoch in zip(stores, epochs, strict=True):
        await ask(one, epoch)  # nobody is fenced


async def test_line_items_share_their_campaigns_budget(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(item, 9, None, None, None, 100) for item in (1, 2)])
    leases = await ask(store, epoch, (1, 80), (2, 80))
    assert [leases[item].granted_micros for item in (1, 2)] == [80, 20]


async def test_each_day_has_its_own_budget_and_all_share_the_total(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, 60, 100, None, None)])
    assert (await ask(store, epoch, (1, 90)))[1].granted_micros == 60
    later_ms = NOW_MS + 86_400_000
    assert (await ask(store, epoch, (1, 90), day=DAY + 1, now_ms=later_ms))[1].granted_micros == 40


async def test_only_days_that_are_today_somewhere_are_granted(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, 60, None, None, None)])
    for day in (DAY - 2, DAY - 1, DAY + 2, -1, 0, 10**9):
        assert await ask(store, epoch, (1, 10), day=day) == {}
    for day in (DAY, DAY + 1):  # it is a quarter past three in the afternoon, in Greenwich
        assert 1 in await ask(store, epoch, (1, 10), day=day)


@pytest.mark.parametrize(("hours", "days"), [(10, (-1, 0, 1)), (12, (0, 1))])
async def test_a_day_begins_at_14_hours_ahead_of_greenwich_and_ends_12_behind(
    store: LeaseStore, hours: int, days: tuple[int, ...]
) -> None:
    now_ms = DAY * 86_400_000 + hours * 3_600_000
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(item, 1, *UNLIMITED) for item in (1, 2)])
    for item, at_ms, expected in ((1, now_ms - 1, (-1, 0, 1) if hours > 10 else (-1, 0)), (2, now_ms, days)):
        granted = [
            after for after in (-2, -1, 0, 1, 2)
            if item in await ask(store, epoch, (item, 10), day=DAY + after, now_ms=at_ms)
        ]  # fmt: skip
        assert granted == list(expected)


async def test_returned_money_can_be_granted_again(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(item, 9, None, None, 100, None) for item in (1, 2)])
    await ask(store, epoch, (1, 100))
    leases = await ask(store, epoch, (2, 100), L1=30)
    assert [leases[item].granted_micros for item in (1, 2)] == [70, 30]


async def test_nobody_returns_more_than_is_left_or_what_is_anothers(store: LeaseStore) -> None:
    one, two = await store.register("one", NOW_MS), await store.register("two", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 1_000_000, None, None)])
    lease = (await ask(store, one, (1, 100)))[1]
    await store.settle({lease.lease_id: 40}, NOW_MS)
    await store.sync(two, NOW_MS, [], {lease.lease_id: 10, "nonsense": 5}, 0)
    assert (await ask(store, one))[1].granted_micros == 100
    for nothing in (0, -50):
        assert (await ask(store, one, L1=nothing))[1].granted_micros == 100
    assert (await ask(store, one, L2=5))[1].granted_micros == 100  # nobody has that lease
    await ask(store, one, L1=10**9)
    assert 1 not in await ask(store, one)  # nothing is left on it
    granted = (await ask(store, one, (1, 1)))[1]
    assert (granted.granted_micros, granted.settled_micros) == (41, 40)


async def test_settling_is_absolute_and_never_goes_back(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    lease = (await ask(store, epoch, (1, 100)))[1]
    for billed, watermark_ms in ((30, 5_000), (30, 5_000), (45, 6_000), (20, 4_000)):
        await store.settle({lease.lease_id: billed}, watermark_ms)
    report = await store.sync(epoch, NOW_MS, [], {}, 0)
    assert (report.leases[0].settled_micros, report.watermark_ms) == (45, 6_000)


async def test_it_names_the_leases_that_are_neither_spent_nor_returned(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(item, item, None, 1_000, None, None) for item in (1, 2, 3, 4)])
    await ask(store, epoch, (1, 100), (2, 100), (3, 100))
    await store.cover([LateClaim(4, 4, DAY, 0, NOW_MS, (30,))])
    await store.settle({f"{epoch}-1-{DAY}": 40, f"{epoch}-2-{DAY}": 100}, NOW_MS)
    await ask(store, epoch, L3=100)
    assert await store.behind(NOW_MS) is not None
    assert set(await store.behind(NOW_MS) or []) == {f"{epoch}-1-{DAY}", f"0-4-{DAY}"}


async def test_a_lowered_limit_stops_further_grants_and_a_raised_one_allows_them(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    await ask(store, epoch, (1, 80))
    await store.set_limits([Limit(1, 1, None, 50, None, None)])
    assert (await ask(store, epoch, (1, 10)))[1].granted_micros == 80
    assert (await ask(store, epoch, (1, 10), L1=25))[1].granted_micros == 55
    assert (await ask(store, epoch, (1, 10), L1=15))[1].granted_micros == 50
    await store.set_limits([Limit(1, 1, None, None, None, None)])
    assert (await ask(store, epoch, (1, 10)))[1].granted_micros == 60


async def test_a_new_epoch_fences_the_holders_old_one_and_nobody_elses(store: LeaseStore) -> None:
    old, other = await store.register("bidder", NOW_MS), await store.register("other", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    await ask(store, old, (1, 60))
    new = await store.register("bidder", NOW_MS)
    assert new > other > old
    with pytest.raises(ConflictError):
        await store.sync(old, NOW_MS, [], {}, 0)
    with pytest.raises(ConflictError):
        await store.sync(12345, NOW_MS, [], {}, 0)
    await ask(store, other)
    assert (await ask(store, new, (1, 100)))[1].granted_micros <= 40  # the old lease is still outstanding


async def test_a_dead_holders_money_comes_back_when_nothing_can_be_billed_on_it(store: LeaseStore) -> None:
    dead = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    expires_ms = NOW_MS + 75_000
    lease = (await ask(store, dead, (1, 100), promise_ms=expires_ms))[1]
    last_ms = closes_ms(expires_ms)
    now_ms = last_ms + 1_000
    heir = await store.register("heir", now_ms)

    async def reclaim(at_ms: int = now_ms) -> int:
        return await store.reclaim(at_ms, HOLDER_TIMEOUT_MS)

    assert await reclaim(NOW_MS) == 0
    assert await reclaim(NOW_MS + HOLDER_TIMEOUT_MS) == 0
    await ask(store, dead)  # not silent for long enough yet
    await ask(store, heir)
    assert await reclaim(NOW_MS + HOLDER_TIMEOUT_MS + 1) == 0
    await ask(store, heir)
    assert await reclaim() == 0  # fenced now, but the ledger has not read so far
    with pytest.raises(ConflictError):
        await ask(store, dead)
    await store.settle({lease.lease_id: 35}, last_ms - 1)
    assert await reclaim() == 0
    assert await ask(store, heir, (1, 100), now_ms=now_ms) == {}
    await store.settle({lease.lease_id: 40}, last_ms)
    assert await reclaim() == 60
    assert await reclaim() == 0
    assert (await ask(store, heir, (1, 100), now_ms=now_ms))[1].granted_micros == 60


async def test_the_largest_promise_counts_even_when_a_later_one_is_shorter(store: LeaseStore) -> None:
    """Notices were given less time meanwhile, or the holder's clock was set back; older bids are still out."""
    dead = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    await ask(store, dead, (1, 100), promise_ms=NOW_MS + 600_000)
    await ask(store, dead, promise_ms=NOW_MS + 20_000)
    await store.register("bidder", NOW_MS)
    await store.settle({}, closes_ms(NOW_MS + 600_000) - 1)
    assert await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS) == 0
    await store.settle({}, closes_ms(NOW_MS + 600_000))
    assert await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS) == 100


async def test_who_syncs_is_alive_whatever_any_clock_says(store: LeaseStore) -> None:
    slow = await store.register("slow", NOW_MS - 600_000)
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    for at_ms in (NOW_MS, NOW_MS + 5_000, NOW_MS + 3_600_000, NOW_MS - 3_600_000, NOW_MS):
        await ask(store, slow, (1, 10), now_ms=NOW_MS - 600_000)
        await store.reclaim(at_ms, HOLDER_TIMEOUT_MS)
    assert (await ask(store, slow, now_ms=NOW_MS - 600_000))[1].granted_micros == 50


async def test_who_was_last_heard_before_a_clock_was_set_back_is_silent_as_soon_as_others(store: LeaseStore) -> None:
    dead = await store.register("dead", NOW_MS)
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    await ask(store, dead, (1, 60))
    await store.reclaim(NOW_MS + 86_400_000, HOLDER_TIMEOUT_MS)
    await store.settle({}, closes_ms(NOW_MS + 86_400_000))
    assert await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS) == 0
    assert await store.reclaim(NOW_MS + HOLDER_TIMEOUT_MS + 1, HOLDER_TIMEOUT_MS) == 60


async def test_what_a_day_has_spent_counts_whatever_any_clock_says(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, 100, None, None, None)])
    await store.settle({}, NOW_MS)
    assert (await ask(store, epoch, (1, 100)))[1].granted_micros == 100
    await store.reclaim(NOW_MS + 30 * 86_400_000, HOLDER_TIMEOUT_MS)
    assert (await ask(store, epoch, (1, 100)))[1].granted_micros == 100
    month_ms = NOW_MS + 30 * 86_400_000
    await store.settle({}, month_ms)
    await store.reclaim(month_ms, HOLDER_TIMEOUT_MS)  # and a month later a bidder's clock is a month behind
    again = await store.register("behind", NOW_MS)
    assert await ask(store, again, (1, 100)) == {}


async def test_a_budget_lowered_below_what_is_granted_recalls_the_leases_on_it(store: LeaseStore) -> None:
    one, two = await store.register("one", NOW_MS), await store.register("two", NOW_MS)
    await store.set_limits([Limit(item, 9, None, None, 1_000_000, None) for item in (1, 2)] + [Limit(3, 8, *UNLIMITED)])
    await ask(store, one, (1, 400), (3, 50))
    await ask(store, two, (2, 500))
    assert not any(lease.recalled for lease in (await ask(store, one)).values())
    await store.set_limits([Limit(item, 9, None, None, 700, None) for item in (1, 2)])
    leases = await ask(store, one)
    assert [leases[item].recalled for item in (1, 3)] == [True, False]
    assert (await ask(store, two))[2].recalled
    assert not (await ask(store, one, L1=200))[1].recalled  # within the budget again
    await store.set_limits([Limit(1, 9, 0, None, 700, None)])  # may spend nothing today
    assert (await ask(store, one))[1].recalled
    assert not (await ask(store, two))[2].recalled


async def test_a_paused_line_item_gets_nothing_for_bids_and_still_pays_for_late_wins(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    running = [Limit(item, 9, None, 100, None, 150) for item in (1, 2)]
    await store.set_limits(running)
    assert (await ask(store, epoch, (1, 60)))[1].spare_micros > 0
    await store.set_limits([limit._replace(active=False) for limit in running])
    leases = await ask(store, epoch, (1, 10), (2, 10))
    assert [(one.granted_micros, one.recalled, one.spare_micros) for one in leases.values()] == [(60, True, 0)]
    assert await store.cover([claim(41, 40, campaign=9), claim(51, 50, item=2, campaign=9)]) == {
        f"0-1-{DAY}": 40,
        f"0-2-{DAY}": 50,
    }
    await ask(store, epoch, L1=60)
    await store.set_limits(running)
    leases = await ask(store, epoch, (1, 100), (2, 100))
    assert [(item, one.granted_micros, one.recalled) for item, one in leases.items()] == [(1, 60, False)]


async def test_pausing_again_and_resuming_leave_no_budget_of_before(store: LeaseStore) -> None:
    limit = Limit(1, 1, None, 100, None, None)
    for total in (100, 45):
        await store.set_limits([limit._replace(total_micros=total, active=False)])
    assert await store.cover([claim(46, 45)]) == {f"0-1-{DAY}": 45}
    await store.set_limits([limit])
    assert await store.cover([claim(30, charged=45)]) == {f"0-1-{DAY}": 75}


async def test_the_embedded_store_counts_what_was_billed_on_a_lease_it_does_not_know(tmp_path: Path) -> None:
    """The store's file was lost, and the ledger tells it everything again."""
    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
    await store.open()
    await store.settle({f"77-1-{DAY}": 90, "not a lease": 5, "": 1}, NOW_MS, {1: 9})  # before it knows any limits
    await store.set_limits([Limit(1, 9, None, 100, None, None), Limit(2, 9, None, None, None, 150)])
    await store.settle({f"77-1-{DAY}": 90}, NOW_MS, {1: 9})
    epoch = await store.register("bidder", NOW_MS)
    leases = await ask(store, epoch, (1, 50), (2, 500))
    assert [leases[item].granted_micros for item in (1, 2)] == [10, 50]
    await store.close()


async def test_the_embedded_store_says_when_it_is_new_or_knows_less_than_the_book(tmp_path: Path) -> None:
    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
    await store.open()
    assert await store.behind(0) is None
    await store.settle({}, 5)
    assert [await store.behind(at_ms) for at_ms in (4, 5, 6)] == [[], [], None]
    await store.close()


async def test_the_embedded_store_keeps_of_days_long_over_only_their_totals(tmp_path: Path) -> None:
    store, count = LocalLeaseStore(tmp_path / "leases.db", "NORMAL"), 30
    await store.open()
    await store.set_limits([Limit(1, 9, 10, 1_000, None, None)])
    told: dict[str, int] = {}
    for day in range(DAY, DAY + count):
        now_ms = day * MS_PER_DAY
        epoch = await store.register("bidder", now_ms)
        await ask(store, epoch, (1, 6), day=day, now_ms=now_ms)
        await store.cover([claim(2, campaign=9, day=day)])
        name = f"{epoch}-1-{day}"
        told |= {name: 5, f"0-1-{day}": 1}
        # On the first day nobody returns what was not spent.
        await store.sync(epoch, now_ms, [], {name: 1} if day > DAY else {}, now_ms)
        await store.settle({name: 5, f"0-1-{day}": 1}, now_ms)
        if day > DAY + 3:  # until then the ledger might be behind the first bidder's promise
            await store.reclaim(now_ms, HOLDER_TIMEOUT_MS)

    async def rows(table: str) -> list[Any]:
        return await store._file.read(lambda sql: sql.execute(f"SELECT * FROM {table}").fetchall())

    days = [day for *_, day, _, _ in await rows("leases")]
    assert sorted(set(days)) == list(range(DAY + count - DAYS_KEPT, DAY + count))
    assert len(await rows("used")) == 2 * DAYS_KEPT + 2
    assert len(await rows("holders")) <= 2
    # An old notice that comes again names a lease that is gone; nothing is granted on a day that is over.
    await store.settle(told, now_ms)
    assert await store.cover([claim(1, campaign=9, day=DAY)]) == {}
    assert await ask(store, epoch, (1, 1), day=DAY, now_ms=DAY * MS_PER_DAY) == {}
    totals = {tuple(row) for row in await rows("used") if row[2] < 0}
    assert totals == {("line_item", 1, -1, 7 * count), ("campaign", 9, -1, 7 * count)}
    await store.close()


async def test_a_new_file_counts_what_was_spent_on_every_day_there_was(tmp_path: Path) -> None:
    """However long the ledger takes to tell it, and whoever looks at it meanwhile."""
    store, days = LocalLeaseStore(tmp_path / "leases.db", "NORMAL"), range(DAY - 99, DAY + 1)
    await store.open()
    for some in (days[50:], days[:50]):
        await store.settle({f"77-1-{day}": 3 for day in some}, 0, {1: 9})
        await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS)
    await store.settle({}, NOW_MS)
    await store.set_limits([Limit(1, 9, None, 310, None, None)])
    assert (await ask(store, await store.register("bidder", NOW_MS), (1, 50)))[1].granted_micros == 10
    await store.close()


async def test_a_clock_that_was_a_year_ahead_for_a_moment_closes_no_day(tmp_path: Path) -> None:
    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
    await store.open()
    await store.set_limits([Limit(1, 9, 10, None, None, None)])
    epoch = await store.register("bidder", NOW_MS)
    for day in (*range(DAY - 10, DAY), DAY + 365):
        await ask(store, epoch, (1, 6), day=day, now_ms=day * MS_PER_DAY)
        await store.settle({f"{epoch}-1-{day}": 6}, day * MS_PER_DAY)
    assert (await ask(store, epoch, (1, 6)))[1].granted_micros == 6
    await store.close()


@pytest.mark.parametrize("count", [0, 1, 4_999, 5_000, 5_001, 10_000])
async def test_however_much_is_settled_the_embedded_store_lets_holders_have_their_turn(
    tmp_path: Path, count: int
) -> None:
    written: list[int] = []

    class Watched(SqliteFile):
        async def write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
            done = await super().write(work)
            query = "SELECT count(*), (SELECT watermark_ms FROM state) FROM leases"
            leases, watermark_ms = await self.read(lambda sql: sql.execute(query).fetchone())
            assert watermark_ms == (7 if leases == count else 0)
            written.append(leases)
            return done

    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL", Watched)
    await store._file.open()
    await store.settle({f"77-{item}-{DAY}": 1 for item in range(count)}, 7)
    assert written == [*range(5_000, count, 5_000), count]
    await store.close()


def claim(*amounts: int, item: int = 1, campaign: int = 1, charged: int = 0, day: int = DAY) -> LateClaim:
    return LateClaim(item, campaign, day, charged, NOW_MS, amounts)


async def test_late_wins_are_granted_what_no_lease_has_each_in_full_or_not_at_all(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    await ask(store, epoch, (1, 60))
    own = f"0-1-{DAY}"
    assert await store.cover([claim(41)]) == {own: 0}
    assert await store.cover([claim(15, 30, 20, 5)]) == {own: 40}  # exactly: 15, 20 and 5
    assert await store.cover([claim(1, charged=40)]) == {own: 40}
    assert (await ask(store, epoch, (1, 60)))[1].granted_micros == 60  # nothing is left for bids
    await store.settle({own: 40}, NOW_MS)
    await store.reclaim(NOW_MS + 10 * HOLDER_TIMEOUT_MS, HOLDER_TIMEOUT_MS)
    assert await store.cover([claim(1, charged=40)]) == {own: 40}


async def test_asking_for_late_wins_again_takes_nothing_more(store: LeaseStore) -> None:
    """The ledger died before it charged them, or another had asked for the same."""
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    own = f"0-1-{DAY}"
    for _ in range(3):
        assert await store.cover([claim(10, 20)]) == {own: 30}
    assert await store.cover([claim(20, charged=10)]) == {own: 30}
    assert await store.cover([claim(20, charged=30)]) == {own: 50}
    assert (await ask(store, epoch, (1, 90)))[1].granted_micros == 50


async def test_late_wins_draw_on_all_four_budgets_of_their_day(store: LeaseStore) -> None:
    for item, budgets in enumerate(
        [(70, 500, 500, 500), (500, 70, 500, 500), (500, 500, 70, 500), (500, 500, 500, 70)], start=1
    ):
        await store.set_limits([Limit(item, item, *budgets)])
        yesterday = claim(71, 70, item=item, campaign=item, day=DAY - 1)
        assert await store.cover([yesterday]) == {f"0-{item}-{DAY - 1}": 70}
        today = {f"0-{item}-{DAY}": 0 if item % 2 == 0 else 70}
        assert await store.cover([claim(70, item=item, campaign=item)]) == today


async def test_line_items_of_one_campaign_compete_for_late_wins(store: LeaseStore) -> None:
    await store.set_limits([Limit(item, 9, None, None, None, 100) for item in (1, 2)])
    found = await store.cover([claim(60, item=1, campaign=9), claim(50, 40, item=2, campaign=9)])
    assert found == {f"0-1-{DAY}": 60, f"0-2-{DAY}": 40}


async def test_a_lowered_budget_and_an_unknown_line_item_have_no_room_for_late_wins(store: LeaseStore) -> None:
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    own = f"0-1-{DAY}"
    assert await store.cover([claim(30)]) == {own: 30}
    await store.set_limits([Limit(1, 1, None, 20, None, None)])
    assert await store.cover([claim(30)]) == {own: 30}  # what was granted stays
    assert await store.cover([claim(1, charged=30)]) == {own: 30}
    assert await store.cover([claim(1, item=77)]) == {}


async def test_a_holder_whose_clock_is_off_gets_nothing_and_promises_nothing(valkey: Valkey) -> None:
    """A day ahead it would spend tomorrow's budget, and its promises would close the store for a day after a loss."""
    store, now_ms = RedisLeaseStore(valkey.url), SystemClock().now_ms()
    await store.open()
    (one,) = await store.standing()
    await store.restate(one.shard, one.generation, [], 0, now_ms + 3 * MS_PER_DAY)
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    epoch = await store.register("bidder", now_ms)
    for off_ms in (MS_PER_DAY, -MS_PER_DAY, CLOCK_SKEW_MS_MAX + MS_PER_MINUTE, -CLOCK_SKEW_MS_MAX - MS_PER_MINUTE):
        there_ms = now_ms + off_ms
        with pytest.raises(ClockError, match="ms ahead of the lease store's"):
            await ask(store, epoch, (1, 10), day=there_ms // MS_PER_DAY, now_ms=there_ms, promise_ms=there_ms)
    (one,) = await store.standing()
    assert one.asked_ms == 0
    for off_ms in (CLOCK_SKEW_MS_MAX - MS_PER_MINUTE, MS_PER_MINUTE - CLOCK_SKEW_MS_MAX):
        there_ms = now_ms + off_ms
        day = there_ms // MS_PER_DAY
        assert 1 in await ask(store, epoch, (1, 10), day=day, now_ms=there_ms)
    await store.close()


async def test_a_shard_covers_nothing_beyond_its_ceiling_or_on_days_it_has_forgotten(valkey: Valkey) -> None:
    store = RedisLeaseStore(valkey.url)
    await store.open()
    await store.set_limits([Limit(1, 1, *UNLIMITED)])
    assert await store.cover([claim(5)]) == {}  # not whole
    (one,) = await store.standing()
    await store.restate(one.shard, one.generation, [], 0, NOW_MS + 1_000)
    beyond = claim(5)._replace(appended_ms=NOW_MS + 1_001)
    assert await store.cover([beyond]) == {}
    assert (await store.standing())[0].asked_ms == NOW_MS + 1_001  # the keeper will raise it
    await store.raise_ceiling(one.shard, one.generation, NOW_MS + 1_001)
    assert await store.cover([beyond]) == {f"0-1-{DAY}": 5}
    await store.settle({}, NOW_MS + 8 * 86_400_000)
    await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS)
    assert await store.cover([claim(5, charged=5)]) == {}
    await store.close()


async def test_what_can_matter_no_more_takes_no_room(valkey: Valkey) -> None:
    url = valkey.url
    store = RedisLeaseStore(url, ANY_CLOCK_MS)
    await store.open()
    (one,) = await store.standing()
    await store.restate(one.shard, one.generation, [], 0, FAR_MS)
    await store.set_limits([Limit(item, 1, *UNLIMITED) for item in (1, 2)])
    epoch = await store.register("bidder", NOW_MS)
    await ask(store, epoch, (1, 10), (2, 10))

    def kept(start: str) -> list[str]:
        with valkey.client(url) as client:
            fields = [name.decode() for name in client.hkeys("dsp:{dsp-0}:leases")]
        return sorted(name for name in fields if name.startswith(start))

    names = [f"lease:{epoch}-{item}-{DAY}" for item in (1, 2)]
    await store.settle({f"{epoch}-1-{DAY}": 10}, NOW_MS)
    await ask(store, epoch)
    assert kept("lease:") == names  # more may be granted on it
    await ask(store, epoch, now_ms=NOW_MS + 3 * 86_400_000)
    assert kept("lease:") == names[1:]  # the other may still be billed
    await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS)
    assert kept("lease") == [*names[1:], f"leases:{epoch}"]
    await store.reclaim(NOW_MS + HOLDER_TIMEOUT_MS + 1, HOLDER_TIMEOUT_MS)
    assert kept("lease") == []
    used = [f"used:{one}:{DAY}" for one in ("campaign:1", "line_item:1", "line_item:2")]
    always = [f"used:{one}:all" for one in ("campaign:1", "line_item:1", "line_item:2")]
    await store.cover([claim(5)])
    own = f"lease:0-1-{DAY}"
    for days, expected in ((7, [own, *sorted(used + always)]), (8, always)):
        await store.settle({}, NOW_MS + days * 86_400_000)
        await store.reclaim(NOW_MS, HOLDER_TIMEOUT_MS)
        assert kept("lease") + kept("used") == expected
    await store.close()


async def test_several_holders_at_once_never_get_more_than_the_limit(make_store: MakeStore) -> None:
    stores = [await make_store() for _ in range(3)]
    await stores[0].set_limits([Limit(1, 1, None, 1_000_000, None, None)])
    epochs = await asyncio.gather(*(store.register(f"b{index}", NOW_MS) for index, store in enumerate(stores)))
    granted = dict.fromkeys(epochs, 0)

    async def take(store: LeaseStore, epoch: int) -> None:
        granted[epoch] = (await ask(store, epoch, (1, 70_000)))[1].granted_micros

    for _ in range(40):  # all at once, again and again, as bidders that sync once a second
        await asyncio.gather(*map(take, stores, epochs))
    assert sum(granted.values()) == 1_000_000
    assert min(granted.values()) > 100_000  # and none of them is starved


async def test_a_restart_forgets_nothing(make_store: MakeStore) -> None:
    store = await make_store()
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 1, None, 100, None, None)])
    await ask(store, epoch, (1, 60))
    await store.close()
    with pytest.raises(UnavailableError):
        await store.sync(epoch, NOW_MS, [], {}, 0)
    again = await make_store()
    assert (await ask(again, epoch, (1, 60)))[1].granted_micros == 100


async def test_what_a_lone_holder_may_spare_is_a_part_of_what_is_left_and_shrinks_with_it(store: LeaseStore) -> None:
    epoch = await store.register("bidder", NOW_MS)
    await store.set_limits([Limit(1, 7, 1_000, None, None, None)])
    spares = [(await ask(store, epoch, (1, 200)))[1].spare_micros for _ in range(5)]
    assert spares == [200, 150, 100, 50, 0]


async def test_what_holders_may_spare_they_share(store: LeaseStore) -> None:
    await store.set_limits([Limit(1, 7, 200_000, None, None, None)])
    epochs = [await store.register(name, NOW_MS) for name in ("a", "b")]
    spares = [(await ask(store, epoch, (1, 20_000)))[1].spare_micros for epoch in epochs]
    assert spares == [180_000 // 8, 160_000 // 8]
