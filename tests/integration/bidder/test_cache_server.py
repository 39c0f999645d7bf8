"""A bidder whose leases, users and blobs are on a server that is slow, hung, killed or empty: it answers in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import uvloop

from bidder.patience import at_most
from dsp.cache.redis import RedisLeaseStore, RedisUserStore
from dsp.catalog.terms import FrequencyCap
from dsp.catalog.user import UserRecord
from dsp.kernel.errors import UnavailableError
from dsp.store.database import create_engine, session_factory
from dsp.workers.lease_keeper import LeaseKeeper
from tests.integration.bidder.world import CLOCK, World, bid_request, catalogue, only_bid, price_at, world
from tests.servers.proxy import Proxy, proxy
from tests.servers.valkey import Valkey
from tests.waiting import until

pytestmark = pytest.mark.platform
CAPPED = catalogue(caps=(FrequencyCap(impressions=1, window_seconds=3_600),))
#: What the requests of these tests allow.
TMAX_MS = 200


class Ledger:
    """Does what the ledger worker does where nothing is billed: tells how far it has read, keeps the leases whole."""

    def __init__(self, url: str, database: str) -> None:
        self.ahead_ms = 0  # of the clock
        self.store = RedisLeaseStore(url)
        self._engine = create_engine(database)
        self._keeper = LeaseKeeper(session_factory(self._engine), self.store)
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Ledger":
        await self.store.open()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        await self.store.close()
        self._engine.dispose()

    async def whole(self) -> bool:
        return all(one.whole for one in await self.store.standing())

    async def _run(self) -> None:
        while True:
            with suppress(UnavailableError):
                watermark_ms = CLOCK.now_ms() + self.ahead_ms
                await self.store.settle({}, watermark_ms)
                await self._keeper.keep(watermark_ms)
            await asyncio.sleep(0.05)


@pytest.fixture
async def between(own_valkey: Valkey) -> AsyncIterator[Proxy]:
    """What is between the bidder and the server; the ledger and the publisher have a way of their own."""
    async with proxy(own_valkey.port) as made:
        yield made


@pytest.fixture
async def ledger(tmp_path: Path, own_valkey: Valkey, migrated_file: Path) -> AsyncIterator[Ledger]:
    copy(migrated_file, tmp_path / "book.db")
    async with Ledger(f"redis://127.0.0.1:{own_valkey.port}/1", f"sqlite:///{tmp_path / 'book.db'}") as made:
        yield made


@pytest.fixture
async def bidder(tmp_path: Path, ledger: Ledger, between: Proxy) -> AsyncIterator[World]:
    async with world(tmp_path / "world", DSP_PLATFORM_CACHE_URL=f"redis://127.0.0.1:{between.port}/1") as made:
        await made.publish(CAPPED)
        await made.start()
        await until(made.ready)
        await until(made.bidding)
        yield made


async def answered(bidder: World, user: str, count: int = 100) -> list[int]:
    """Send requests one after the other; return their statuses, and see that all were in time.

    A busy machine may keep the whole bidder waiting: with each request goes another, that needs nothing of the server.
    """
    statuses, held_up = [], 0
    for number in range(count):
        request = bid_request(f"{user}-{number}", user={"id": f"{user}-{number}"}, tmax=TMAX_MS)
        (took_ms, status), (other_ms, _) = await asyncio.gather(
            _timed(_status(bidder, request)), _timed(bidder.status(bidder.admin_port, "/healthz"))
        )
        assert took_ms - other_ms < TMAX_MS
        held_up += other_ms > TMAX_MS / 2
        statuses.append(status)
    assert set(statuses) <= {200, 204}
    assert await bidder.metric("dsp_bid_late_total") <= held_up
    return statuses


async def _timed(call: Awaitable[int]) -> tuple[float, int]:
    """Return how long an answer took, in milliseconds, and its status."""
    began = time.perf_counter()
    status = await call
    return 1_000 * (time.perf_counter() - began), status


async def _status(bidder: World, request: dict[str, Any]) -> int:
    return (await bidder.bid(request))[0]


async def test_impressions_count_for_every_process_that_shares_the_server(bidder: World) -> None:
    async def first() -> dict[str, Any]:
        status, found = await bidder.bid(bid_request("first", user={"id": "alice"}))
        return found if status == 200 else {}

    answer = await until(first)
    assert await bidder.notify(price_at(only_bid(answer)["burl"], "1")) == 200
    assert (await bidder.bid(bid_request("second", user={"id": "alice"})))[0] == 204
    await bidder.stop()
    for path in bidder.data.glob("users*"):
        path.unlink()
    bidder.extra["DSP_BIDDER_HOLDER"] = "another"
    await bidder.start()
    await until(bidder.bidding)

    async def capped() -> bool:
        assert (await bidder.bid(bid_request("third", user={"id": "alice"})))[0] == 204
        return await bidder.metric("dsp_no_bids_total", reason="frequency_cap") > 0

    await until(capped)


async def test_a_slow_server_makes_no_bid_late(bidder: World, between: Proxy) -> None:
    between.delay_seconds = 0.05
    statuses = await answered(bidder, "slow")
    assert 204 in statuses  # what has caps does not bid without the user's record
    assert await bidder.metric("dsp_no_bids_total", reason="frequency_unknown") > 0
    assert await bidder.metric("dsp_user_faults_total", call="get", fault="timeout") > 0
    between.delay_seconds = 0.0
    await until(lambda: bids(bidder, "quick"))


async def test_a_hung_server_makes_no_bid_late_and_bidding_goes_on_after_it(bidder: World, between: Proxy) -> None:
    between.open.clear()
    assert set(await answered(bidder, "hung", 300)) == {204}
    between.open.set()
    await until(lambda: bids(bidder, "again"))


async def test_a_killed_server_makes_no_bid_late_and_bidding_goes_on_after_it(
    bidder: World, own_valkey: Valkey
) -> None:
    own_valkey.kill()
    assert set(await answered(bidder, "killed", 300)) == {204}
    own_valkey.start()
    await until(lambda: bids(bidder, "again"))


async def test_a_bidder_that_starts_without_the_server_answers_no(bidder: World, own_valkey: Valkey) -> None:
    await bidder.stop()
    own_valkey.kill()
    await bidder.start()
    assert set(await answered(bidder, "early")) == {204}
    own_valkey.start()
    await until(lambda: bids(bidder, "again"))


async def test_a_server_without_its_data_lends_again_when_nothing_is_out_that_it_forgot(
    bidder: World, ledger: Ledger, own_valkey: Valkey
) -> None:
    own_valkey.kill()
    own_valkey.lose()
    own_valkey.start()
    await until(lambda: bidder.metric("dsp_lease_syncs_total", result="fenced"))
    await bidder.publish(CAPPED)
    await answered(bidder, "lost")
    assert not await ledger.whole()  # what the bidder has it may spend
    ledger.ahead_ms = 7_200_000  # notices may take an hour
    await until(ledger.whole)
    before = await bidder.metric("dsp_lease_syncs_total", result="synced")
    await until(lambda: synced(bidder, before + 5))
    await until(lambda: bids(bidder, "again"))


async def synced(bidder: World, count: float) -> bool:
    return await bidder.metric("dsp_lease_syncs_total", result="synced") >= count


async def bids(bidder: World, user: str) -> bool:
    request = bid_request(f"{user}-{time.monotonic_ns()}", user={"id": f"{user}-{time.monotonic_ns()}"})
    return (await bidder.bid(request))[0] == 200


def test_an_answer_that_came_while_the_event_loop_was_busy_counts(own_valkey: Valkey) -> None:
    async def work() -> UserRecord | None:
        store = RedisUserStore(own_valkey.url)
        await store.open()
        await store.end_replay({0: 1})
        asked = asyncio.ensure_future(at_most(10.0, store.get("u1")))
        for _ in range(3):
            await asyncio.sleep(0)  # it leaves
        time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs meanwhile
        try:
            return await asked
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # which looks at its timers first
        assert runner.run(work()) is None
