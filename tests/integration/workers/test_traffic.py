"""The traffic worker against the embedded stores: sampled requests in, curves out, each request counted once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.events.schema import SampledRequest, encode
from dsp.events.topics import Topic
from dsp.kernel.config import Platform
from dsp.kernel.errors import UnavailableError
from dsp.openrtb.profile import load_profiles
from dsp.pacing.traffic import HOURS, TRAFFIC_BLOB, Curves, Traffic, decode
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from dsp.workers.config import WorkersConfig
from dsp.workers.traffic import PUBLISH_INTERVAL_MS, TrafficJob
from tests.integration.workers.conftest import NOON_MS, World

REPOSITORY = Path(__file__).parents[3]
HOUR_MS = 3_600_000
CREATIVE = {
    "format": "banner", "width": 300, "height": 250, "landing_url": "https://brand.example/", "markup": "<b>ad</b>",
}  # fmt: skip


def request(number: int, country: str = "USA", **fields: Any) -> bytes:
    return json.dumps(
        {
            "id": f"auction-{number}",
            "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, "secure": 1}],
            "site": {"domain": "news.example"},
            "device": {"geo": {"country": country}, "ua": "Mozilla/5.0"},
            **fields,
        }
    ).encode()


class Traffics:
    """A world with three line items, a worker over it, and requests at chosen times."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = LocalEventLog(world.path / "log", world.clock)
        campaign = world.campaign(world.advertiser())
        clauses = [{}, {"country": {"include": ["USA"]}}, {"country": {"include": ["DEU"]}}]
        self.line_items = [world.line_item(campaign, targeting={"clauses": one}) for one in clauses]
        for number in self.line_items:
            world.create(Kind.CREATIVE, line_item_id=number, **CREATIVE)
        self.job = self.start()
        self._requests = 0

    def start(self, log: LocalEventLog | None = None) -> TrafficJob:
        world = self.world
        profiles = load_profiles(REPOSITORY / "config" / "demo" / "exchanges")
        workers = WorkersConfig(batch_records=7, wait_ms=1)
        log = log or LocalEventLog(world.path / "log", world.clock)
        return TrafficJob(world.views, log, world.blobs, world.clock, workers, Platform(), profiles)

    async def arrive(self, count: int, country: str = "USA", exchange: str = "demo-first", **fields: Any) -> None:
        entries = []
        for _ in range(count):
            self._requests += 1
            body = request(self._requests, country, **fields)
            sampled = SampledRequest(
                auction_id=f"auction-{self._requests}", exchange=exchange, at_ms=self.world.clock.now_ms(),
                body=body, outcome="bid",
            )  # fmt: skip
            entries.append(Entry(sampled.auction_id, encode(sampled)))
        await self.log.append(Topic.REQUESTS, entries)

    async def drain(self) -> None:
        while await self.job.step():
            pass

    async def published(self) -> Traffic:
        found = await self.world.blobs.get(TRAFFIC_BLOB)
        assert found is not None
        return decode(found[1])

    async def counts(self) -> list[list[float]]:
        """Return what is published of each line item, hours without any left out."""
        traffic = await self.published()
        return [[count for count in traffic.line_items[number].counts if count] for number in self.line_items]


@pytest.fixture
async def traffics(world: World) -> AsyncIterator[Traffics]:
    made = Traffics(world)
    await made.log.open()
    await made.job.open()
    yield made
    await made.log.close()


async def test_each_line_item_counts_what_it_may_bid_on(traffics: Traffics) -> None:
    await traffics.arrive(20, "USA")
    await traffics.arrive(5, "DEU")
    await traffics.arrive(4, test=1)  # nobody's experience
    await traffics.arrive(3, exchange="gone")
    await traffics.arrive(2, imp=[])  # no request of ours any more
    await traffics.drain()
    await traffics.job.close()
    assert await traffics.counts() == [[25.0], [20.0], [5.0]]
    assert sum((await traffics.published()).platform) == 25.0


async def test_supply_counts_whether_or_not_it_may_be_bought(traffics: Traffics) -> None:
    """Outside its flight and dayparts, and paused: it must be known what comes at those hours."""
    world, (first, second, third) = traffics.world, traffics.line_items
    world.update(Kind.LINE_ITEM, first, dayparts=[{"weekday": 6, "start_hour": 3, "end_hour": 4}])
    world.set_status(Kind.LINE_ITEM, second, Status.PAUSED)
    world.clock.advance(10 * HOUR_MS)  # the flights are of two minutes
    await traffics.arrive(9)
    await traffics.drain()
    await traffics.job.close()
    assert await traffics.counts() == [[9.0], [9.0], []]
    assert third in (await traffics.published()).line_items


async def test_a_pause_or_a_budget_compiles_nothing_and_another_change_does(traffics: Traffics) -> None:
    world, job, (first, second, _) = traffics.world, traffics.job, traffics.line_items
    await job.step()
    compiled = job.snapshot
    world.set_status(Kind.LINE_ITEM, first, Status.PAUSED)
    world.update(Kind.LINE_ITEM, second, budget={"daily_micros": 7_000_000})
    await job.step()
    assert job.snapshot is compiled
    world.set_status(Kind.LINE_ITEM, second, Status.PAUSED)
    world.update(Kind.LINE_ITEM, first, targeting={"clauses": {"country": {"include": ["FRA"]}}})
    await job.step()
    assert job.snapshot is not compiled
    await traffics.arrive(3, "FRA")
    await traffics.drain()
    await job.close()
    assert await traffics.counts() == [[3.0], [], []]


async def test_a_restart_goes_on_where_it_published(traffics: Traffics) -> None:
    await traffics.arrive(10)
    await traffics.drain()
    await traffics.job.close()
    await traffics.arrive(6)
    # Killed before it published, so these are read again, once.
    killed = traffics.start()
    await killed.open()
    assert not await killed.step()
    traffics.job = traffics.start()
    await traffics.job.open()
    await traffics.drain()
    traffics.world.clock.advance(PUBLISH_INTERVAL_MS)
    await traffics.job.step()
    assert await traffics.counts() == [[16.0], [16.0], []]


async def test_it_publishes_each_minute_also_when_the_clock_is_set_back(traffics: Traffics) -> None:
    await traffics.arrive(10)
    await traffics.drain()
    traffics.world.clock.step(-24 * HOUR_MS)
    traffics.world.clock.advance(PUBLISH_INTERVAL_MS)
    await traffics.job.step()
    assert await traffics.counts() == [[10.0], [10.0], []]


async def test_hours_are_right_again_once_a_clock_is(traffics: Traffics) -> None:
    """The log's stamps are not: where a host began eight hours ahead, they stay so for good."""
    clock = traffics.world.clock
    clock.step(8 * HOUR_MS)
    await traffics.arrive(10)
    clock.step(-8 * HOUR_MS)
    await traffics.arrive(7)
    await traffics.drain()
    await traffics.job.close()
    counted = (await traffics.published()).line_items[traffics.line_items[0]].counts
    assert {hour: count for hour, count in enumerate(counted) if count} == {12: 7.0}


async def test_a_bidder_whose_clock_is_a_little_ahead_is_counted(traffics: Traffics) -> None:
    traffics.world.clock.step(30_000)
    await traffics.arrive(10)
    traffics.world.clock.step(-30_000)
    await traffics.drain()
    await traffics.job.close()
    assert await traffics.counts() == [[10.0], [10.0], []]


async def test_what_is_no_request_is_parked_and_stops_no_other(traffics: Traffics) -> None:
    await traffics.log.append(Topic.REQUESTS, [Entry("rubbish", b"no event")])
    await traffics.arrive(3)
    await traffics.drain()
    await traffics.job.close()
    assert await traffics.counts() == [[3.0], [3.0], []]
    assert len((await traffics.log.read(Topic.DEAD_LETTERS, {}, 10)).records) == 1


async def test_a_day_s_curve_is_learned_from_the_log(traffics: Traffics) -> None:
    """Twice the traffic from noon to midnight UTC: an advertiser in Kolkata plans for it from 17:30 on."""
    for hour in range(HOURS):
        traffics.world.clock.at_ms = NOON_MS + hour * HOUR_MS
        for _ in range(12):
            await traffics.arrive(20 if hour < 12 else 10)
            traffics.world.clock.advance(HOUR_MS // 12)
        await traffics.drain()
    await traffics.job.close()
    curves = Curves(await traffics.published())
    utc = curves.local(traffics.line_items[:2], "UTC", NOON_MS)
    assert all(1.25 < weight < 1.4 for weight in utc[12:])
    assert all(0.6 < weight < 0.75 for weight in utc[:12])
    kolkata = curves.local(traffics.line_items[:2], "Asia/Kolkata", NOON_MS)
    assert 0.95 < kolkata[17] < 1.05  # half of it before half past
    assert min(kolkata[18:] + kolkata[:5]) > 1.25


async def test_unreadable_state_is_learned_anew(world: World) -> None:
    await world.blobs.put(TRAFFIC_BLOB, b"\xc1")
    traffics = Traffics(world)
    await traffics.log.open()
    await traffics.job.open()
    await traffics.arrive(3)
    await traffics.drain()
    await traffics.job.close()
    await traffics.log.close()
    assert await traffics.counts() == [[3.0], [3.0], []]


async def test_a_worker_that_could_not_open_leaves_what_was_learned(traffics: Traffics) -> None:
    await traffics.arrive(3)
    await traffics.drain()
    await traffics.job.close()
    nowhere = traffics.world.path / "dsp.db"  # is a file
    broken = traffics.start(LocalEventLog(nowhere / "log", traffics.world.clock))
    with pytest.raises(UnavailableError):
        await broken.open()
    await broken.close()
    assert await traffics.counts() == [[3.0], [3.0], []]
