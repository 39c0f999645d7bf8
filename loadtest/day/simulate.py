"""Runs the day: yesterday is learned from, then requests, auctions and notices pass, and every hour spend is noted."""

import asyncio
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

import msgspec

from dsp.events.schema import SampledRequest, encode
from dsp.events.topics import Topic
from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND, ManualClock
from dsp.kernel.config import Platform as PlatformConfig
from dsp.kernel.money import Micros
from dsp.pacing.controller import CONTROLS_BLOB, Control, Controls, decode
from dsp.pacing.traffic import TRAFFIC_BLOB
from dsp.pacing.traffic import decode as decode_traffic
from dsp.stream.port import Entry
from loadtest.day.loop import run
from loadtest.day.orders import CAMPAIGN_BUDGETS, ORDERS, Order, midnight_ms, tables
from loadtest.day.platform import BIDDER, Platform
from loadtest.day.traffic import arrivals
from loadtest.exchange import Exchange
from loadtest.ledger import Ledger
from loadtest.notifier import Manners, Notifier
from loadtest.reconcile import Overspent, Reconciliation, overspent, reconcile
from loadtest.traffic import Traffic
from loadtest.truth import Truth

REQUESTS_PER_DAY = 48_000
#: Before the first order's day begins the platform is up for so long.
_EARLY_MS = 600_000
_HOURS = 24
#: Iran's hours begin at half past.
_GRID_MS = MS_PER_HOUR // 2
_SETTLE_SECONDS = 3_600.0
#: A simulated crash loses nothing that a real disk would have kept, so the files need not be on one.
_MEMORY = Path("/dev/shm")  # noqa: S108 - a fresh directory in it
_MANNERS = Manners(
    render_delay_seconds=(0.2, 5.0), click_delay_seconds=(1.0, 30.0), conversion_delay_seconds=(10.0, 900.0)
)


class Sample(msgspec.Struct, frozen=True):
    """One line item or campaign at the end of an hour of its day; micros since the day began.

    `level` is minus the log of the budget's dual: at 0 and above the budget holds nothing back.
    """

    name: str
    hour: int
    spent_micros: Micros
    planned_micros: Micros
    level: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a day. `supply` is yesterday's impressions that each line item could have bid on."""

    samples: list[Sample]
    supply: dict[str, int]
    impressions: dict[str, int]
    requests: int
    overspent: list[Overspent]
    imbalance_micros: Micros
    reconciliation: Reconciliation
    digest: str


class Simulation:
    """One seed. `hours` ends it early, for tests of the simulation itself."""

    def __init__(self, seed: int = 1, requests_per_day: int = REQUESTS_PER_DAY, hours: float | None = None) -> None:
        begins = {order.advertiser: midnight_ms(order.advertiser) for order in ORDERS}
        self._seed = seed
        self._requests_per_day = requests_per_day
        self._begin_ms = min(begins.values()) - _EARLY_MS
        self._end_ms = max(begins.values()) + MS_PER_DAY
        if hours is not None:
            self._end_ms = self._begin_ms + int(hours * MS_PER_HOUR)
        self._clock = ManualClock(self._begin_ms - MS_PER_DAY)
        self._traffic = Traffic(seed)
        self._requests = 0
        self._truth = Truth()
        self._samples: list[Sample] = []
        self._supply: dict[str, int] = {}

    def run(self, keep: Path | None = None) -> Outcome:
        """Run the day to its end. `keep` is where the platform's data is to stay; nothing may be there yet."""
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        with TemporaryDirectory(prefix="dsp-day-", dir=memory) as directory:
            run(self._live(Path(directory)), self._clock)
            ledger = Ledger(PlatformConfig(data_dir=directory))
            try:
                return self._outcome(ledger)
            finally:
                ledger.close()
                if keep is not None:
                    copytree(directory, keep)

    async def _live(self, directory: Path) -> None:
        platform = Platform(directory, self._clock, tables())
        await self._learn(platform)
        await platform.start()
        notifier = Notifier(platform.client, self._truth, self._seed, _MANNERS)
        seconds = asyncio.get_running_loop().time
        exchange = Exchange(platform.client, "", self._traffic, platform.profiles, self._truth, notifier, seconds)
        watch = asyncio.create_task(self._watch(platform, Ledger(PlatformConfig(data_dir=str(directory)))))
        for at_ms in arrivals(self._seed, self._begin_ms, self._end_ms, self._requests_per_day):
            await self._until(at_ms)
            await exchange.serve(self._traffic.request(self._requests))
            self._requests += 1
            notifier.check()
            platform.check()
        await watch
        await notifier.settle(_SETTLE_SECONDS)
        await platform.stop()

    async def _learn(self, platform: Platform) -> None:
        """Let the traffic worker read what the bidder would have sampled yesterday."""
        await platform.traffic.open()
        share = self._requests_per_day * BIDDER.request_sample_rate
        yesterday, begin_ms = Traffic(-self._seed), self._clock.now_ms()
        for index, at_ms in enumerate(arrivals(-self._seed, begin_ms, self._begin_ms, share)):
            await self._until(at_ms)
            request = yesterday.request(index)
            sampled = SampledRequest(
                auction_id=request.id,
                exchange=request.source.exchange,
                at_ms=at_ms,
                body=msgspec.json.encode(request.payload),
                outcome="not_ready",
            )
            await platform.log.append(Topic.REQUESTS, [Entry(request.id, encode(sampled))])
        while await platform.traffic.step():
            pass
        await platform.traffic.close()
        await self._until(self._begin_ms)
        found = await platform.blobs.get(TRAFFIC_BLOB)
        if found is None:
            raise RuntimeError("nothing was learned")
        learned = decode_traffic(found[1]).line_items
        for number, order in enumerate(ORDERS, 1):
            self._supply[order.name] = round(sum(learned[number].counts) / BIDDER.request_sample_rate)

    async def _watch(self, platform: Platform, ledger: Ledger) -> None:
        """Note spend and plan just before each full hour of each advertiser's day."""
        paced = {one.name: (one.id, "line_items") for one in ledger.catalogue.line_items}
        paced |= {one.name: (one.id, "campaigns") for one in ledger.catalogue.campaigns}
        for at_ms in range(self._begin_ms - self._begin_ms % _GRID_MS + _GRID_MS, self._end_ms + 1, _GRID_MS):
            await self._until(at_ms - 1)
            due = list(_due(at_ms))
            found = await platform.blobs.get(CONTROLS_BLOB) if due else None
            if found is None:
                continue
            controls: Controls = decode(found[1])
            spent = _spent(ledger)
            for name, hour in due:
                number, kind = paced[name]
                held: Control = getattr(controls, kind)[number]
                money = spent.get((kind, number), 0), held.planned_micros or 0
                self._samples.append(Sample(name, hour, *money, held.level))
        ledger.close()

    async def _until(self, at_ms: int) -> None:
        await asyncio.sleep((at_ms - self._clock.now_ms()) / MS_PER_SECOND)

    def _outcome(self, ledger: Ledger) -> Outcome:
        charges, events = ledger.charges(), ledger.events()
        names = {one.id: one.name for one in ledger.catalogue.line_items}
        impressions = dict.fromkeys(names.values(), 0)
        for day in ledger.results():
            impressions[names[day.line_item_id]] += day.impressions
        told = (sorted(charges), self._samples, self._requests, sorted(events))
        return Outcome(
            samples=self._samples,
            supply=self._supply,
            impressions=impressions,
            requests=self._requests,
            overspent=overspent(ledger.budgets(), charges),
            imbalance_micros=ledger.imbalance(),
            reconciliation=reconcile(self._truth.notices, charges, events),
            digest=blake2b(msgspec.json.encode(told), digest_size=16).hexdigest(),
        )


def _due(at_ms: int) -> Iterator[tuple[str, int]]:
    """Yield who ends an hour of the measured day at this instant, and which."""
    paced: dict[str, Order] = {order.name: order for order in ORDERS}
    paced |= {order.campaign: order for order in ORDERS if order.campaign in CAMPAIGN_BUDGETS}
    for name, order in paced.items():
        hour, into_ms = divmod(at_ms - midnight_ms(order.advertiser), MS_PER_HOUR)
        if not into_ms and 1 <= hour <= _HOURS:
            yield name, hour


def _spent(ledger: Ledger) -> dict[tuple[str, int], Micros]:
    found: dict[tuple[str, int], Micros] = {}
    for day in ledger.results():
        for key in (("line_items", day.line_item_id), ("campaigns", day.campaign_id)):
            found[key] = found.get(key, 0) + day.spend_micros
    return found
