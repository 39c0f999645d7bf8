"""Whatever is asked in whatever order, the lease stores answer alike; whoever asks at once, no limit is exceeded."""

import asyncio
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseStore, LeaseWant, Limit
from dsp.cache.redis import RedisLeaseStore
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import ConflictError
from dsp.ledger.terms import LateClaim, late_lease_id, lease_id
from tests.servers.valkey import ANY_CLOCK_MS, Valkey

NOW_MS = ManualClock().now_ms()
DAY = NOW_MS // 86_400_000
FAR_MS = NOW_MS + 100_000_000
CAMPAIGN_OF = {1: 7, 2: 7, 3: 8}
LIMITS = {
    1: (30_000, None, 70_000, 90_000),
    2: (None, 60_000, 70_000, 90_000),
    3: (None, 100_000, None, None),
}

item = st.sampled_from(sorted(LIMITS))
who = st.integers(0, 3)
micros = st.integers(0, 80_000)
day = st.sampled_from((DAY, DAY, DAY, DAY - 1, DAY + 1, DAY + 2))
ms = st.sampled_from((0, 1_000, 31_000, 70_000, 10_000_000))
operation = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(("a", "b", "c")), ms),
    st.tuples(
        st.just("sync"), who, st.lists(st.tuples(item, day, micros), max_size=4),
        st.lists(st.tuples(who, item, day, micros), max_size=3), ms,
    ),
    st.tuples(st.just("set_limits"), st.lists(st.tuples(item, st.sampled_from((0.0, 0.3, 1.0, 2.0))), max_size=3)),
    st.tuples(st.just("settle"), st.lists(st.tuples(who, item, day, st.floats(0.0, 1.0)), max_size=3), ms),
    st.tuples(
        st.just("cover"), st.lists(st.tuples(item, day, st.lists(micros, min_size=1, max_size=3)), max_size=2),
        st.booleans(),
    ),
    st.tuples(st.just("reclaim"), ms),
)  # fmt: skip


def limit(number: int, factor: float = 1.0) -> Limit:
    bounds = [None if bound is None else int(bound * factor) for bound in LIMITS[number]]
    return Limit(number, CAMPAIGN_OF[number], *bounds)


class Driver:
    """Drives one store; epochs are named by the order in which they were given out, so that two stores compare."""

    def __init__(self, store: LeaseStore) -> None:
        self.store = store
        self.epochs: list[int] = []
        self.granted: dict[tuple[int, int, int], int] = {}
        self.charged: dict[str, int] = {}

    async def do(self, name: str, *arguments: Any) -> Any:
        return await getattr(self, name)(*arguments)

    async def register(self, holder: str, after_ms: int) -> None:
        self.epochs.append(await self.store.register(holder, NOW_MS + after_ms))

    async def sync(self, number: int, wants: list[Any], returns: list[Any], promise_ms: int) -> Any:
        if not self.epochs:
            return None
        at = number % len(self.epochs)
        given = {lease_id(self.epochs[one % len(self.epochs)], *lease): amount for one, *lease, amount in returns}
        asked = [LeaseWant(*one) for one in wants]
        try:
            report = await self.store.sync(self.epochs[at], NOW_MS, asked, given, NOW_MS + promise_ms)
        except ConflictError:
            return "fenced"
        found = {}
        for one in report.leases:
            self.granted[at, one.line_item_id, one.day] = one.granted_micros
            spare = min(one.spare_micros, 10**9)  # what is unbounded is not the same in both
            found[one.line_item_id, one.day] = (one.granted_micros, one.settled_micros, one.recalled, spare)
        return found, report.watermark_ms

    async def set_limits(self, changes: list[tuple[int, float]]) -> None:
        await self.store.set_limits([limit(*one) for one in changes])

    async def settle(self, billed: list[Any], after_ms: int) -> None:
        """Bill a part of what was granted: by protocol never more, and never what nobody was granted."""
        settled = {}
        for number, line_item_id, on_day, part in billed:
            at = number % max(1, len(self.epochs))
            granted = self.granted.get((at, line_item_id, on_day), 0)
            if granted:
                settled[lease_id(self.epochs[at], line_item_id, on_day)] = int(granted * part)
        await self.store.settle(settled, NOW_MS + after_ms)

    async def cover(self, late: list[Any], charged: bool) -> dict[str, int]:
        """Ask for late wins as the ledger does: it may have died before it charged what it was granted last."""
        claims = [
            LateClaim(
                number, CAMPAIGN_OF[number], on_day, self.charged.get(late_lease_id(number, on_day), 0), 0, (*all,)
            )
            for number, on_day, all in late
        ]
        found = await self.store.cover(claims)
        if charged:
            self.charged |= found
            await self.store.settle(found, 0)
        return found

    async def reclaim(self, after_ms: int) -> int:
        return await self.store.reclaim(NOW_MS + after_ms, 30_000)


async def whole(store: RedisLeaseStore) -> RedisLeaseStore:
    await store.open()
    for one in await store.standing():
        await store.restate(one.shard, one.generation, [], 0, FAR_MS)
    return store


@settings(max_examples=30, suppress_health_check=list(HealthCheck), derandomize=True)
@given(operations=st.lists(operation, min_size=5, max_size=40))
def test_both_lease_stores_answer_alike(valkey: Valkey, operations: list[tuple[Any, ...]]) -> None:
    async def compare() -> None:
        with TemporaryDirectory() as folder:
            local = LocalLeaseStore(Path(folder) / "leases.db", "NORMAL")
            await local.open()
            redis = await whole(RedisLeaseStore(valkey.url, ANY_CLOCK_MS))
            drivers = Driver(local), Driver(redis)
            try:
                for driver in drivers:
                    await driver.set_limits([(number, 1.0) for number in LIMITS])
                for one in operations:
                    here, there = [await driver.do(*one) for driver in drivers]
                    assert here == there, one
                assert used_locally(Path(folder) / "leases.db") == used_remotely(valkey, redis)
            finally:
                await local.close()
                await redis.close()

    asyncio.run(compare())


def used_locally(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as sql:
        rows = sql.execute("SELECT scope, id, day, micros FROM used").fetchall()
    return {f"{scope}:{owner}:{'all' if on < 0 else on}": amount for scope, owner, on, amount in rows if amount}


def used_remotely(valkey: Valkey, store: RedisLeaseStore) -> dict[str, int]:
    found = leases_hash(valkey, store).items()
    return {name[5:]: int(value) for name, value in found if name.startswith("used:") and int(value)}


def leases_hash(valkey: Valkey, store: RedisLeaseStore) -> dict[str, str]:
    """Return the text fields of the store's hash."""
    with valkey.client(f"redis://127.0.0.1:{valkey.port}/{store._nodes.address.db}") as client:
        found = client.hgetall("dsp:{dsp-0}:leases")
    return {name.decode(): value.decode(errors="replace") for name, value in found.items()}


@pytest.mark.parametrize("seed", range(3))
async def test_holders_that_sync_at_once_never_exceed_a_limit(valkey: Valkey, seed: int) -> None:
    """Four processes of their own connections; some die with a call under way, and begin again under another epoch."""
    dice = random.Random(seed)
    url = valkey.url
    stores = [await whole(RedisLeaseStore(url, ANY_CLOCK_MS)) for _ in range(4)]
    watcher = await whole(RedisLeaseStore(url, ANY_CLOCK_MS))
    await watcher.set_limits([limit(number) for number in LIMITS])
    ended = asyncio.Event()

    async def hold(name: str, store: RedisLeaseStore) -> None:
        epoch = await store.register(name, NOW_MS)
        for _ in range(60):
            wants = [LeaseWant(dice.choice((1, 2, 3)), DAY, dice.randrange(30_000)) for _ in range(3)]
            returns = {lease_id(epoch, dice.choice((1, 2, 3)), DAY): dice.randrange(20_000) for _ in range(2)}
            call = asyncio.ensure_future(store.sync(epoch, NOW_MS, wants, returns, NOW_MS))
            if dice.random() < 0.1:
                await asyncio.sleep(0)
                call.cancel()  # its effect is not known
                epoch = await store.register(name, NOW_MS)
                continue
            try:
                report = await call
            except ConflictError:  # it was taken for dead
                epoch = await store.register(name, NOW_MS)
                continue
            settled = {one.lease_id: dice.randrange(one.granted_micros + 1) for one in report.leases}
            await store.settle(settled, NOW_MS + dice.randrange(2_000))

    async def watch() -> int:
        looks = 0
        while not ended.is_set():
            check(leases_hash(valkey, watcher))
            await watcher.reclaim(NOW_MS + dice.randrange(60_000), 30_000)
            looks += 1
        return looks

    watching = asyncio.create_task(watch())
    try:
        await asyncio.gather(*(hold(name, store) for name, store in zip("abcd", stores, strict=True)))
    finally:
        ended.set()
        looks = await watching
        for store in (*stores, watcher):
            await store.close()
    assert looks > 10


def check(fields: dict[str, str]) -> None:
    """Add up the leases: at most the limits, and what the store believes."""
    used: Counter[str] = Counter()
    for name, value in fields.items():
        if name.startswith("lease:"):
            _, line_item, on_day = name[6:].split("-")
            campaign, granted, settled = value.split(" ")
            assert int(settled) <= int(granted)
            for owner in (f"line_item:{line_item}", f"campaign:{campaign}"):
                used[f"{owner}:{on_day}"] += int(granted)
                used[f"{owner}:all"] += int(granted)
    for number in LIMITS:
        _, campaign_id, *bounds = limit(number)
        for owner, day_micros, total_micros in (
            (f"line_item:{number}", bounds[0], bounds[1]),
            (f"campaign:{campaign_id}", bounds[2], bounds[3]),
        ):
            for field, bound in ((f"{owner}:{DAY}", day_micros), (f"{owner}:all", total_micros)):
                believed = int(fields.get(f"used:{field}", 0))
                assert used[field] <= believed <= (bound if bound is not None else believed)
