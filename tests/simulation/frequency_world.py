"""A small world for frequency caps: users who come back, an exchange whose notices go astray, and bidder processes.

Auctions, notices, pending bids and the user store are the real ones; money is no object. The world alone knows when
which ad was truly shown. `python -m tests.simulation.frequency_world` prints the table of docs/benchmarks.md.
"""

import argparse
import asyncio
import heapq
import json
import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from bidder.config import BidderConfig
from bidder.exposures import ExposureReplay
from bidder.handlers import parse_query
from bidder.run import Arrival
from bidder.state import Serving, ServingState, serve
from bidder.wiring import Deployment, wire
from dsp.cache.local import LocalUserStore
from dsp.catalog.entities import Campaign, Catalogue
from dsp.catalog.terms import FrequencyCap, Goal, GoalKind
from dsp.events.schema import NoticeKind
from dsp.events.topics import Topic
from dsp.kernel.clock import ManualClock
from dsp.kernel.config import Platform
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.profile import Profile
from dsp.pacing.columns import align
from dsp.snapshot.build import Snapshot, build
from dsp.stream.port import Batch, Entry, Position, Record
from models.serving.prior import ConstantPredictor
from tests.integration.bidder.world import bid_request, catalogue, link
from tests.unit.bidder.fakes import FakeLog

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_750_000_000_000
PROFILE = Profile(name="x", auction_default=1, billing="bill", notice_ttl_seconds=600)
#: How often one of several processes reads what the others have counted.
REPLAY_MS = 500
DEFAULTS = BidderConfig()


class Faults(NamedTuple):
    """How notices go astray: shares of all, each copy on its own."""

    duplicated: float = 0.0
    late: float = 0.0  # by ten minutes on average
    lost: float = 0.0
    saved_every_ms: int = 0  # the user store's saves; 0: only at the end
    killed_every_ms: int = 0  # a process, with everything that it has not saved
    processes: int = 1
    win_notices: bool = True


_BAD = Faults(duplicated=0.05, late=0.03, lost=0.01)
SCENARIOS = {
    "no faults": Faults(),
    "5% of notices duplicated": Faults(duplicated=0.05),
    "3% late": Faults(late=0.03),
    "1% lost": Faults(lost=0.01),
    "all three": _BAD,
    "all three, killed every hour": _BAD._replace(saved_every_ms=60_000, killed_every_ms=HOUR_MS),
    "all three, four times as often": Faults(duplicated=0.2, late=0.12, lost=0.04),
    "all three, no win or loss notices": _BAD._replace(win_notices=False),
    "all three, two processes": _BAD._replace(processes=2),
}


class Result(NamedTuple):
    """What truly happened."""

    users: int  # who saw anything
    over: int  # of them, those who saw something more often than a cap allows
    impressions: int
    refused: int  # impressions offered that found everything capped

    @property
    def violation_rate(self) -> float:
        return self.over / self.users


@dataclass
class ListLog(FakeLog):
    """A log in memory that can be read; records appended since `unseen_from_ms` are not there yet for readers."""

    clock: ManualClock = field(default_factory=ManualClock)
    records: list[Record] = field(default_factory=list)
    unseen_from_ms: int = 2**62

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        now_ms = self.clock.now_ms()
        if topic == Topic.NOTICES:
            self.records += [
                Record(0, offset, now_ms, *entry) for offset, entry in enumerate(entries, start=len(self.records))
            ]
        return now_ms

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        begin = position.get(0, 0)
        found = [one for one in self.records[begin : begin + limit] if one.appended_ms < self.unseen_from_ms]
        after = begin + len(found)
        return Batch(found, {0: after}, len(found) < limit, {})


class Purse(LeaseBook):
    """Money without end."""

    def reserve(self, *_: Any) -> str:
        return "lease"

    def ledger_ms(self, elapsed_ms: int) -> int:
        return 0

    def cancel(self, bid_id: str) -> None: ...

    def release(self, bid_id: str, appended_ms: int) -> None: ...

    def bill(self, bid_id: str, cost_micros: int, appended_ms: int) -> None: ...


def market() -> Catalogue:
    """Two campaigns of one advertiser, four line items for the same banner, caps at every level."""
    base = catalogue()
    (item, _), creative, (campaign,) = base.line_items, base.creatives[0], base.campaigns

    def cap(impressions: int, seconds: int) -> FrequencyCap:
        return FrequencyCap(impressions=impressions, window_seconds=seconds)

    campaigns: tuple[Campaign, ...] = (
        msgspec.structs.replace(campaign, frequency_caps=(cap(4, 3_600), cap(9, 86_400))),
        msgspec.structs.replace(campaign, id=3, name="Second"),
    )
    caps = {
        10: (2, (cap(1, 300), cap(3, 3_600))),
        20: (2, (cap(2, 600),)),
        30: (3, (cap(2, 1_800), cap(5, 86_400))),
        40: (3, ()),
    }
    return Catalogue(
        advertisers=(msgspec.structs.replace(base.advertisers[0], frequency_caps=(cap(3, 120), cap(12, 86_400))),),
        campaigns=campaigns,
        line_items=tuple(
            msgspec.structs.replace(
                item,
                id=number,
                name=str(number),
                campaign_id=campaign_id,
                goal=Goal(kind=GoalKind.CPM, target_micros=9_000_000 - number * 50_000),
                frequency_caps=own,
            )
            for number, (campaign_id, own) in caps.items()
        ),
        creatives=tuple(msgspec.structs.replace(creative, id=100 + one, line_item_id=one) for one in caps),
    )


class Process:
    """One bidder process: everything but the log and its file of users dies with it."""

    def __init__(self, path: Path, log: ListLog, clock: ManualClock, config: BidderConfig, profile: Profile) -> None:
        self._parts = path, log, clock, config, profile
        profiles, serving, leases = {profile.name: profile}, Serving(), Purse(1)
        served = serve(build(market(), "v1", START_MS), None)
        prior = ConstantPredictor().prepare(served.ad_rows)
        self.snapshot: Snapshot = served.snapshot
        serving.swap(ServingState(served, align(None, self.snapshot.line_item_ids), 0, prior, prior))
        self.users = LocalUserStore(path, window_ms=serving.cap_window_ms, save_interval_ms=10**9)
        deployment = Deployment(Platform(), profiles, [b"k" * 16])
        self.auctioneer, self.desk, self.outbox = wire(
            deployment, config, clock, log, serving=serving, leases=leases, users=self.users
        )
        self.replay = ExposureReplay(log, self.users, self.auctioneer.pending, clock)

    async def start(self) -> None:
        await self.users.open()
        await self.replay.catch_up()
        await self.outbox.start()

    async def stop(self) -> None:
        await self.outbox.stop(5.0)
        await self.users.close()

    async def killed(self) -> "Process":
        """Kill it: nothing is saved. Return its successor, started."""
        await self.outbox.stop(5.0)
        assert self.users._saving is not None
        self.users._saving.cancel()
        await self.users._file.close()
        successor = Process(*self._parts)
        await successor.start()
        return successor


class World:
    """Runs users' visits and what comes of them in order of time."""

    def __init__(self, directory: Path, faults: Faults, seed: int, pending_exposure_ms: int) -> None:
        self._random, self._faults, self._numbers = Random(seed), faults, count()
        self._clock = ManualClock(START_MS)
        self._log = ListLog(clock=self._clock)
        wins = faults.win_notices
        self._profile = msgspec.structs.replace(PROFILE, win_notice=wins, loss_notice=wins)
        config = BidderConfig(
            notice_base_url="http://n.example", pending_exposure_ms=pending_exposure_ms, request_sample_rate=0.0
        )
        self._processes = [
            Process(directory / f"users-{number}.db", self._log, self._clock, config, self._profile)
            for number in range(faults.processes)
        ]
        self._events: list[tuple[int, int, str, Any]] = []
        self._shown: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # by user: when, which line item
        self._refused = 0

    def _at(self, at_ms: float, what: str, about: Any = None) -> None:
        heapq.heappush(self._events, (int(at_ms), next(self._numbers), what, about))

    async def run(self, users: int) -> Result:
        """Let each user visit three times in a day, four pages a visit, one or two impressions a page."""
        for user in range(users):
            for _ in range(3):
                at_ms = START_MS + self._random.random() * DAY_MS
                for _ in range(4):
                    self._at(at_ms, "page", f"u{user}")
                    at_ms += self._random.expovariate(1 / 20_000)
        for what, every_ms in (("save", self._faults.saved_every_ms), ("kill", self._faults.killed_every_ms)):
            for at_ms in range(START_MS + every_ms, START_MS + DAY_MS, every_ms) if every_ms else ():
                self._at(at_ms, what)
        for process in self._processes:
            await process.start()
        while self._events:
            at_ms, _, what, about = heapq.heappop(self._events)
            self._clock.at_ms = max(at_ms, self._clock.at_ms)
            if len(self._processes) > 1:
                self._log.unseen_from_ms = at_ms // REPLAY_MS * REPLAY_MS
                for process in self._processes:
                    await process.replay.catch_up()
            await getattr(self, f"_{what}")(about)
        for process in self._processes:
            await process.stop()
        return self._result()

    async def _save(self, _: None) -> None:
        for process in self._processes:
            await process.replay.catch_up()
            await process.users.save()

    async def _kill(self, _: None) -> None:
        number = self._random.randrange(len(self._processes))
        self._processes[number] = await self._processes[number].killed()

    async def _page(self, user: str) -> None:
        process = self._random.choice(self._processes)
        request = bid_request(f"a{next(self._numbers)}", user={"id": user})
        slots = self._random.choice((1, 2))
        request["imp"] = [{**request["imp"][0], "id": str(number)} for number in range(slots)]
        arrival = Arrival(self._profile, json.dumps(request).encode(), "", self._clock.elapsed_ns())
        answer = await process.auctioneer.answer(arrival)
        bids = json.loads(answer.body)["seatbid"][0]["bid"] if answer.body else []
        self._refused += slots - len(bids)
        for bid in bids:
            self._auction(user, bid)

    def _auction(self, user: str, bid: dict[str, Any]) -> None:
        random, now_ms = self._random, self._clock.now_ms()
        if random.random() < 0.4:
            if self._profile.loss_notice and random.random() < 0.5:
                self._notify(bid["lurl"], now_ms + random.expovariate(1 / 200))
            return
        if self._profile.win_notice:
            self._notify(bid["nurl"], now_ms + random.expovariate(1 / 200))
        if random.random() < 0.03:
            return  # won and never shown
        at_ms = now_ms + min(random.lognormvariate(6.7, 1.0), 60_000)  # 0.8 s, and for one in a hundred 8 s and more
        self._at(at_ms, "show", (user, int(bid["adid"]) - 100))
        self._notify(bid["burl"], at_ms + random.expovariate(1 / 100))
        self._notify(link(bid["adm"], "imp"), at_ms + random.expovariate(1 / 50))

    def _notify(self, url: str, at_ms: float) -> None:
        faults, random = self._faults, self._random
        for _ in range(2 if random.random() < faults.duplicated else 1):
            if random.random() >= faults.lost:
                self._at(at_ms + (random.expovariate(1 / 600_000) if random.random() < faults.late else 0), "tell", url)

    async def _tell(self, url: str) -> None:
        parts = urlsplit(url)
        query = {**parse_query(parts.query), "p": ""}
        outcome = await self._random.choice(self._processes).desk.receive(NoticeKind(parts.path[1:]), query)
        assert outcome.status == 200, (url, outcome)

    async def _show(self, about: tuple[str, int]) -> None:
        user, line_item_id = about
        self._shown[user].append((self._clock.now_ms(), line_item_id))

    def _result(self) -> Result:
        over = sum(self._is_over(shown) for shown in self._shown.values())
        return Result(len(self._shown), over, sum(map(len, self._shown.values())), self._refused)

    def _is_over(self, shown: list[tuple[int, int]]) -> bool:
        """Return whether any window of any cap holds more true impressions than it allows."""
        snapshot = self._processes[0].snapshot
        times: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        caps: dict[tuple[str, int], tuple[FrequencyCap, ...]] = {}
        for at_ms, line_item_id in shown:
            row = snapshot.row_of(line_item_id)
            assert row is not None
            for level in (snapshot.line_items[row], snapshot.campaigns[row], snapshot.advertisers[row]):
                key = type(level).__name__, level.id
                times[key].append(at_ms)
                caps[key] = level.frequency_caps
        return any(
            later_ms - earlier_ms < cap.window_seconds * 1_000
            for key, at in times.items()
            for cap in caps[key]
            for earlier_ms, later_ms in zip(at, at[cap.impressions :], strict=False)
        )


async def simulate(
    faults: Faults, users: int, seed: int, pending_exposure_ms: int = DEFAULTS.pending_exposure_ms
) -> Result:
    """Run one day of `users` users."""
    with tempfile.TemporaryDirectory() as directory:
        return await World(Path(directory), faults, seed, pending_exposure_ms).run(users)


def main() -> None:
    """Print a line for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pending-exposure-ms", type=int, default=DEFAULTS.pending_exposure_ms)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    args = parser.parse_args()
    print(f"{'':36}{'users':>7}{'over a cap':>12}{'rate':>9}{'impressions':>13}{'refused':>9}")
    for name, faults in SCENARIOS.items():
        if args.only in name:
            result = asyncio.run(simulate(faults, args.users, args.seed, args.pending_exposure_ms))
            print(
                f"{name:36}{result.users:7}{result.over:12}{result.violation_rate:9.3%}{result.impressions:13}"
                f"{result.refused:9}",
                flush=True,
            )


if __name__ == "__main__":
    main()
