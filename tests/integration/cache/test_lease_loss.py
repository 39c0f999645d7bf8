"""What becomes of money when the lease store's server dies, keeps its data, or loses it."""

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import Engine

from dsp.cache.port import LeaseReport, LeaseWant, Limit, Spent, Standing
from dsp.cache.redis import RedisLeaseStore
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.ledger.book import Transaction
from dsp.ledger.terms import LateClaim, closes_ms
from dsp.store.book import BookRepository
from dsp.store.database import session_factory
from dsp.workers.lease_keeper import CEILING_SLACK_MS, DAYS_TOLD, PROMISE_AHEAD_MS_MAX, LeaseKeeper
from tests.servers.valkey import ANY_CLOCK_MS, Cluster, Valkey
from tests.waiting import until

NOW_MS = ManualClock().now_ms()
DAY = NOW_MS // 86_400_000
PROMISE_MS = NOW_MS + 125_000


def transaction(number: int, item: int, campaign: int, micros: int, lease_id: str, day: int) -> Transaction:
    return Transaction(
        exchange="exchange",
        auction_id=f"auction-{number}",
        imp_id="1",
        kind="bill",
        bid_id=f"bid-{number}",
        at_ms=NOW_MS,
        appended_ms=NOW_MS,
        advertiser_id=1,
        campaign_id=campaign,
        line_item_id=item,
        creative_id=1,
        day=day,
        hour=day * 24,
        lease_id=lease_id,
        charged_micros=micros,
        late_micros=0,
    )


class Money:
    """A lease store with its keeper and a book."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self.store = RedisLeaseStore(url, ANY_CLOCK_MS)
        self.sessions = session_factory(engine)
        self.keeper = LeaseKeeper(self.sessions, self.store)
        self.bids = 0

    async def ask(self, epoch: int, *wants: tuple[int, int], promise_ms: int = PROMISE_MS) -> LeaseReport:
        asked = [LeaseWant(item, DAY, amount) for item, amount in wants]
        return await self.store.sync(epoch, NOW_MS, asked, {}, promise_ms)

    async def begin(self, epoch: int, promise_ms: int = PROMISE_MS) -> None:
        """Promise, which is believed once the keeper has written it down."""
        with pytest.raises(UnavailableError, match="promise"):
            await self.ask(epoch, promise_ms=promise_ms)
        await self.keeper.keep(NOW_MS)
        await self.ask(epoch, promise_ms=promise_ms)

    async def bill(self, lease_id: str, item: int, campaign: int, micros: int, watermark_ms: int) -> None:
        """Do what the ledger does with a billing notice: the book first, then the lease store."""
        self.bids += 1
        one = transaction(self.bids, item, campaign, micros, lease_id, DAY)
        with self.sessions.begin() as session:
            applied = BookRepository(session).apply([one], {})
        await self.store.settle(applied.leases, watermark_ms)


@pytest.fixture
async def money(own_valkey: Valkey, engine: Engine) -> AsyncIterator[Money]:
    made = Money(own_valkey.url, engine)
    await made.store.open()
    await made.keeper.keep(NOW_MS)
    yield made
    await made.store.close()


async def granted(money: Money, epoch: int, *wants: tuple[int, int]) -> list[int]:
    report = await money.ask(epoch, *wants)
    found = {one.line_item_id: one.granted_micros for one in report.leases}
    return [found.get(item, 0) for item, _ in wants]


async def back(money: Money) -> list[Standing]:
    """Wait until the server is found back."""

    async def answers() -> list[Standing]:
        try:
            return await money.store.standing()
        except UnavailableError:
            return []

    return list(await until(answers))


async def test_a_killed_server_goes_on_where_it_was(money: Money, own_valkey: Valkey) -> None:
    epoch = await money.store.register("bidder", NOW_MS)
    await money.begin(epoch)
    await money.store.set_limits([Limit(1, 1, None, 100, None, None)])
    assert await granted(money, epoch, (1, 60)) == [60]
    before = await money.store.standing()
    own_valkey.kill()
    with pytest.raises(UnavailableError):
        await money.ask(epoch, (1, 10))
    own_valkey.start()
    assert await back(money) == before
    assert await granted(money, epoch, (1, 60)) == [100]


@pytest.mark.parametrize("how", ["killed", "flushed", "evicted"])
async def test_a_server_that_lost_its_data_grants_nothing_until_all_is_told_that_can_be_spent(
    money: Money, own_valkey: Valkey, how: str
) -> None:
    old = await money.store.register("bidder", NOW_MS)
    await money.begin(old)
    limits = [Limit(1, 7, None, 100, None, None), Limit(2, 7, None, None, None, 150)]
    await money.store.set_limits(limits)
    assert await granted(money, old, (1, 60), (2, 50)) == [60, 50]
    await money.bill(f"{old}-1-{DAY}", 1, 7, 20, NOW_MS)
    (before,) = await money.store.standing()
    if how == "killed":
        own_valkey.kill()
        own_valkey.lose()
        own_valkey.start()
    elif how == "flushed":
        with own_valkey.client() as client:
            client.flushall()
    else:  # by a policy that may evict anything
        with own_valkey.client(money.url) as client:
            client.delete(*client.keys("*leases*"))
    (after,) = await back(money)
    assert (after.generation != before.generation, after.whole) == (True, False)
    with pytest.raises(ConflictError):
        await money.ask(old)
    with pytest.raises(UnavailableError, match="lost"):
        await money.store.register("bidder", NOW_MS)
    await money.store.set_limits(limits)

    # The old leases may still be billed, up to the ceiling that the book knows.
    lost_ms = PROMISE_MS + CEILING_SLACK_MS
    for watermark_ms in (NOW_MS, closes_ms(PROMISE_MS), closes_ms(lost_ms) - 1):
        await money.store.settle({}, watermark_ms)
        await money.keeper.keep(watermark_ms)
        assert not (await money.store.standing())[0].whole
    await money.bill(f"{old}-1-{DAY}", 1, 7, 40, closes_ms(lost_ms) - 1)
    await money.bill(f"{old}-2-{DAY}", 2, 7, 50, closes_ms(lost_ms) - 1)
    await money.keeper.keep(closes_ms(lost_ms))
    new = await money.store.register("bidder", NOW_MS)
    assert new > old
    assert await granted(money, new, (1, 500), (2, 500)) == [40, 0]  # 150 of the campaign: 60 + 50 + 40
    await money.store.settle(BookRepository(money.sessions()).spent_by_lease(), closes_ms(lost_ms))  # told again
    assert await granted(money, new, (1, 500), (2, 500)) == [40, 0]


async def test_what_a_lost_store_granted_for_late_wins_is_counted_if_it_can_still_be_charged(
    money: Money, own_valkey: Valkey
) -> None:
    epoch = await money.store.register("bidder", NOW_MS)
    await money.begin(epoch)
    limits = [Limit(1, 7, None, 100, None, None)]
    await money.store.set_limits(limits)
    own, lost_ms = f"0-1-{DAY}", PROMISE_MS + CEILING_SLACK_MS
    claim = LateClaim(1, 7, DAY, 0, lost_ms, (20,))
    assert await money.store.cover([claim]) == {own: 20}
    assert (
        await money.store.cover([claim._replace(appended_ms=lost_ms + 1, amounts=(30,))]) == {}
    )  # it must not be lost
    with own_valkey.client() as client:
        client.flushall()
    await money.store.set_limits(limits)
    assert await money.store.cover([claim]) == {}  # nobody knows what is left
    await money.keeper.keep(closes_ms(lost_ms) - 1)
    await money.bill(own, 1, 7, 20, lost_ms)  # the ledger that had asked was slow, and the watermark waited for it
    await money.keeper.keep(closes_ms(lost_ms))
    assert await money.store.cover([claim._replace(charged_micros=20, amounts=(81,))]) == {own: 20}
    assert await money.store.cover([claim._replace(charged_micros=20, amounts=(80,))]) == {own: 100}
    epoch = await money.store.register("bidder", NOW_MS)
    assert await granted(money, epoch, (1, 500)) == [0]


async def test_a_holder_may_promise_only_what_the_book_knows(money: Money) -> None:
    epoch = await money.store.register("bidder", NOW_MS)
    await money.store.set_limits([Limit(1, 1, None, 100, None, None)])
    await money.begin(epoch)
    later_ms = PROMISE_MS + CEILING_SLACK_MS + 1
    with pytest.raises(UnavailableError, match="promise"):
        await money.ask(epoch, (1, 10), promise_ms=later_ms)
    await money.keeper.keep(NOW_MS)
    assert [one.granted_micros for one in (await money.ask(epoch, (1, 10), promise_ms=later_ms)).leases] == [10]
    mad_ms = NOW_MS + 10 * PROMISE_AHEAD_MS_MAX
    for _ in range(2):
        with pytest.raises(UnavailableError, match="promise"):
            await money.ask(epoch, promise_ms=mad_ms)
        await money.keeper.keep(NOW_MS)
    (one,) = await money.store.standing()
    assert one.ceiling_ms == NOW_MS + PROMISE_AHEAD_MS_MAX + CEILING_SLACK_MS


async def test_a_loss_before_anything_was_told_costs_no_time(money: Money, own_valkey: Valkey, engine: Engine) -> None:
    """The book wrote a generation down, and the keeper died before the store heard of it."""
    with own_valkey.client() as client:
        client.flushall()
    (lost,) = await money.store.standing()
    await money.keeper.keep(NOW_MS + 10 * CEILING_SLACK_MS)
    (whole,) = await money.store.standing()
    assert (whole.generation, whole.whole) == (lost.generation, True)
    with own_valkey.client(money.url) as client:
        client.hdel("dsp:{dsp-0}:leases", "whole")  # as it was in between
    await LeaseKeeper(session_factory(engine), money.store).keep(NOW_MS)
    assert (await money.store.standing())[0].whole


async def test_two_keepers_at_once_restate_once(money: Money, own_valkey: Valkey, engine: Engine) -> None:
    (lost,) = await money.store.standing()
    epoch = await money.store.register("bidder", NOW_MS)
    await money.begin(epoch)
    await money.store.set_limits([Limit(1, 1, None, 100, None, None)])
    assert await granted(money, epoch, (1, 100)) == [100]
    await money.store.restate(0, lost.generation, [], 0, PROMISE_MS)  # one that was slow
    assert await granted(money, epoch, (1, 100)) == [100]
    with pytest.raises(UnavailableError):
        await money.store.restate(0, "another", [], 0, PROMISE_MS)


async def test_a_server_that_keeps_nothing_over_a_restart_grants_nothing(money: Money, own_valkey: Valkey) -> None:
    epoch = await money.store.register("bidder", NOW_MS)
    with own_valkey.client() as client:
        client.config_set("appendonly", "no")
    with pytest.raises(UnavailableError, match="appendonly"):
        await money.ask(epoch)


async def test_what_one_node_of_a_cluster_lost_the_others_still_grant(valkey_cluster: Cluster, engine: Engine) -> None:
    money = Money(valkey_cluster.url, engine)
    await money.store.open()
    await money.keeper.keep(NOW_MS)
    epoch = await money.store.register("bidder", NOW_MS)
    await money.begin(epoch)
    items = range(1, 17)  # a campaign of each shard
    limits = [Limit(item, item, None, 100, None, None) for item in items]
    await money.store.set_limits(limits)
    assert await granted(money, epoch, *((item, 60) for item in items)) == [60] * 16
    before = await money.store.standing()
    with valkey_cluster.nodes[0].client() as client:
        client.flushall()
    after = await money.store.standing()
    lost = {one.shard for one, known in zip(after, before, strict=True) if one.generation != known.generation}
    assert 0 < len(lost) < 16
    await money.store.set_limits(limits)
    await money.store.settle({}, NOW_MS)
    await money.keeper.keep(NOW_MS)
    epoch = await money.store.register("bidder", NOW_MS)
    found = await granted(money, epoch, *((item, 100) for item in items))
    assert found == [0 if item % 16 in lost else 40 for item in items]
    later_ms = closes_ms(PROMISE_MS + CEILING_SLACK_MS)
    for watermark_ms in (later_ms - 1, later_ms):  # what the others promise meanwhile makes it no longer
        await money.store.settle({}, watermark_ms)
        await money.keeper.keep(watermark_ms)
    found = await granted(money, epoch, *((item, 100) for item in items))
    assert found == [100 if item % 16 in lost else 40 for item in items]
    await money.store.close()


async def test_a_replica_that_takes_over_counts_as_a_loss(valkey_cluster: Cluster) -> None:
    """It may lack what its primary acknowledged last: what another node wrote cannot be relied upon."""
    store = RedisLeaseStore(valkey_cluster.url, ANY_CLOCK_MS)
    await store.open()
    for one in await store.standing():
        await store.restate(one.shard, one.generation, [], 0, PROMISE_MS)
    before = await store.standing()
    generations = {one.generation for one in before}
    with valkey_cluster.nodes[0].client() as client:
        taken = [key for key in client.keys("*:leases") if client.hget(key, "generation").decode() in generations]
        for key in taken:
            client.hset(key, "node", "the primary of before")
    after = await store.standing()
    assert 0 < len(taken) < len(after)
    lost = [one for one, known in zip(after, before, strict=True) if one != known]
    assert len(lost) == len(taken)
    assert not any(one.whole for one in lost)
    assert generations.isdisjoint(one.generation for one in lost)
    assert await store.standing() == after  # once, not at every call
    await store.close()


async def test_an_epoch_of_before_the_loss_is_given_to_nobody_else(money: Money, own_valkey: Valkey) -> None:
    """Nothing was charged to it, so the book does not know it; and two of one epoch would spend the same leases."""
    epochs = [await money.store.register(f"bidder {number}", NOW_MS) for number in range(3)]
    await money.begin(epochs[-1])
    with own_valkey.client() as client:
        client.flushall()
    watermark_ms = closes_ms(PROMISE_MS + CEILING_SLACK_MS)
    await money.keeper.keep(watermark_ms)
    assert all(one.whole for one in await money.store.standing())
    assert await money.store.register("another", NOW_MS) > max(epochs)
    with pytest.raises(ConflictError):
        await money.ask(epochs[-1])


async def test_a_holder_hears_the_watermark_of_the_shard_that_was_told_least(valkey_cluster: Cluster) -> None:
    """A ledger that dies half way has told some: in the others what it billed is not settled."""
    store = RedisLeaseStore(valkey_cluster.url, ANY_CLOCK_MS)
    await store.open()
    for one in await store.standing():
        await store.restate(one.shard, one.generation, [], 0, PROMISE_MS)
    epoch = await store.register("bidder", NOW_MS)
    await store.settle({}, NOW_MS)
    await store._run({3: ("settle", {}, NOW_MS + 1)})
    assert (await store.sync(epoch, NOW_MS, [], {}, 0)).watermark_ms == NOW_MS
    await store.close()


async def test_a_store_is_told_the_latest_days_each_and_all_before_as_one(engine: Engine) -> None:
    class Lost:
        async def standing(self) -> list[Standing]:
            return [Standing(0, "new", False, 0, 0)]

        async def restate(
            self, shard: int, generation: str, spent: Sequence[Spent], epoch_min: int, ceiling_ms: int
        ) -> None:
            self.spent, self.epoch_min = sorted(spent), epoch_min

    days = [DAY, DAY - 1, *range(DAY - 300, DAY - 20)]
    with session_factory(engine).begin() as session:
        entries = [transaction(day, 1, 1, 7, f"{5 + number % 2}-1-{day}", day) for number, day in enumerate(days)]
        BookRepository(session).apply(entries, {0: 1})
    lost = Lost()
    await LeaseKeeper(session_factory(engine), lost).keep(NOW_MS)  # type: ignore[arg-type]
    assert lost.spent == [Spent(1, 1, DAY - DAYS_TOLD - 1, 7 * 280), Spent(1, 1, DAY - 1, 7), Spent(1, 1, DAY, 7)]
    assert lost.epoch_min == 6  # the embedded store, which it follows, may have had a clock that was ahead
