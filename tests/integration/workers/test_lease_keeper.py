"""What the lease keeper writes down and tells, of a store whose state the test decides."""

import asyncio
import threading
from collections.abc import Sequence

from prometheus_client import REGISTRY
from sqlalchemy import Engine, text

from dsp.cache.port import Spent, Standing
from dsp.kernel.clock import ManualClock
from dsp.ledger.terms import closes_ms
from dsp.store.database import session_factory
from dsp.store.lease_generations import Known, LeaseGenerations
from dsp.workers.lease_keeper import CEILING_SLACK_MS, LeaseKeeper
from tests.waiting import eventually

NOW_MS = ManualClock().now_ms()
WAITS_FOR_US = text("SELECT count(*) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))")


class Shards:
    """Each begins with nothing, and is whole once it was told what was spent."""

    def __init__(self, *generations: str) -> None:
        self.found = [Standing(shard, one, False, 0, 0) for shard, one in enumerate(generations)]
        self.told: list[int] = []

    async def standing(self) -> Sequence[Standing]:
        return self.found

    async def restate(
        self, shard: int, generation: str, spent: Sequence[Spent], epoch_min: int, ceiling_ms: int
    ) -> None:
        await self.raise_ceiling(shard, generation, ceiling_ms)

    async def raise_ceiling(self, shard: int, generation: str, ceiling_ms: int) -> None:
        self.told.append(shard)
        self.found[shard] = self.found[shard]._replace(whole=True, ceiling_ms=ceiling_ms)

    def promise(self, until_ms: int) -> None:
        self.found = [one._replace(asked_ms=until_ms) for one in self.found]

    def whole(self) -> list[bool]:
        return [one.whole for one in self.found]


def closed() -> float | None:
    return REGISTRY.get_sample_value("dsp_lease_shards_closed")


async def test_what_was_lost_waits_for_what_was_promised_then_and_not_for_what_others_promise_since(
    engine: Engine,
) -> None:
    one = Shards("a", "b")
    keeper = LeaseKeeper(session_factory(engine), one)  # type: ignore[arg-type]
    one.promise(NOW_MS + 125_000)
    await keeper.keep(NOW_MS)
    assert one.whole() == [True, True]  # nothing was ever promised
    lost_ms = one.found[0].ceiling_ms
    assert lost_ms == NOW_MS + 125_000 + CEILING_SLACK_MS
    one.found[0] = Standing(0, "c", False, 0, 0)
    for watermark_ms in range(NOW_MS, closes_ms(lost_ms), 1_000):
        one.promise(watermark_ms + 125_000)
        await keeper.keep(watermark_ms)
        assert one.whole() == [False, True]
        assert closed() == 1
    assert one.found[1].ceiling_ms > lost_ms
    await keeper.keep(closes_ms(lost_ms))
    assert one.whole() == [True, True]
    assert closed() == 0
    one.found[0] = Standing(0, "d", False, 0, 0)
    await keeper.keep(closes_ms(lost_ms))
    assert closed() == 1
    one.found[0] = one.found[0]._replace(whole=True, ceiling_ms=one.found[1].ceiling_ms)  # by another keeper
    await keeper.keep(closes_ms(lost_ms))
    assert closed() == 0


async def test_a_store_divided_otherwise_waits_for_all_that_was_promised_before(engine: Engine) -> None:
    """A server makes way for a cluster: what its one shard had leased may be of any campaign."""
    server, cluster = Shards("a"), Shards("b", "c", "d")
    server.promise(NOW_MS + 125_000)
    await LeaseKeeper(session_factory(engine), server).keep(NOW_MS)  # type: ignore[arg-type]
    keeper = LeaseKeeper(session_factory(engine), cluster)  # type: ignore[arg-type]
    opens_ms = closes_ms(server.found[0].ceiling_ms)
    await keeper.keep(opens_ms - 1)
    assert cluster.whole() == [False, False, False]
    await keeper.keep(opens_ms)
    assert cluster.whole() == [True, True, True]


async def test_a_store_that_needs_nothing_is_told_nothing(engine: Engine) -> None:
    one = Shards("a")
    keeper = LeaseKeeper(session_factory(engine), one)  # type: ignore[arg-type]
    for after_ms in range(0, CEILING_SLACK_MS // 2 + 1, 1_000):
        await keeper.keep(NOW_MS + after_ms)
    assert one.told == [0]
    await keeper.keep(NOW_MS + CEILING_SLACK_MS // 2 + 1)
    assert one.told == [0, 0]


async def test_two_that_are_the_first_at_once_write_the_same_row(engine: Engine) -> None:
    """On PostgreSQL the second was refused, logged that and tried again."""
    sessions = session_factory(engine)
    read, written = threading.Event(), threading.Event()

    def second() -> None:
        with sessions.begin() as session:
            generations = LeaseGenerations(session)
            generations.all()
            read.set()
            written.wait()
            generations.write(0, "a", NOW_MS - 1)

    with sessions.begin() as session:
        generations = LeaseGenerations(session)
        assert generations.all() == {}
        other = asyncio.create_task(asyncio.to_thread(second))
        if engine.dialect.name == "postgresql":  # SQLite lets one in at a time
            await asyncio.to_thread(read.wait)
        generations.write(0, "a", NOW_MS)
        written.set()
        if engine.dialect.name == "postgresql":
            await asyncio.to_thread(eventually, lambda: session.scalar(WAITS_FOR_US))
    await other
    with sessions.begin() as session:
        assert LeaseGenerations(session).all() == {0: Known("a", NOW_MS)}
