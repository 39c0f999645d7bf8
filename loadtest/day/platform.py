"""The platform in one process without ports: a bidder and its workers, put together as their own commands do it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bidder.auction import Auctioneer
from bidder.config import BidderConfig
from bidder.handlers import parse_query
from bidder.notices import NoticeDesk
from bidder.reload import Reloader
from bidder.run import Arrival
from bidder.state import Serving
from bidder.sync import LeaseSync
from bidder.wiring import Deployment, wire
from dsp.cache.local import LocalBlobStore, LocalLeaseStore, LocalUserStore
from dsp.events.schema import NoticeKind
from dsp.kernel.clock import MS_PER_SECOND, NS_PER_MS, ManualClock
from dsp.kernel.config import Platform as PlatformConfig
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.profile import Profile, load_profiles
from dsp.store.database import create_engine, session_factory, url
from dsp.store.load import Load
from dsp.store.migrate import upgrade
from dsp.stream.local import LocalEventLog
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob
from dsp.workers.pacing import PacingJob
from dsp.workers.runner import Job
from dsp.workers.snapshot import SnapshotJob
from dsp.workers.traffic import TrafficJob
from loadtest.client import Answer, Client
from loadtest.platform import EXCHANGES, VENDOR_ID

_KEY = b"of a simulated day, and no secret"
#: The shipped intervals are shorter, and a day would take longer; a loop that is slower has it harder.
WORKERS = WorkersConfig(wait_ms=1, snapshot_poll_ms=60_000, ledger_step_ms=10_000, pacing_step_ms=10_000)
BIDDER = BidderConfig(
    notice_base_url="https://notices.dsp.example",
    reload_interval_ms=2_500,
    lease_sync_interval_ms=5_000,
    request_sample_rate=0.1,
)
TRAFFIC_STEP_MS = 60_000
_USERS_SAVE_MS = 60_000


class Platform:
    """All parts in one data directory. Time is `clock`'s, and threads are not used (see loadtest.day.loop)."""

    def __init__(self, directory: Path, clock: ManualClock, tables: Mapping[str, Any]) -> None:
        config = PlatformConfig(data_dir=str(directory), exchanges_dir=str(EXCHANGES), privacy_vendor_id=VENDOR_ID)
        upgrade(url(config))
        self._engine = create_engine(url(config))
        Load(self._engine, "simulation", clock.now_ms()).run(tables)
        self.profiles = load_profiles(EXCHANGES)
        self.blobs = LocalBlobStore(directory / "blobs")
        self.log = LocalEventLog(directory / "log", clock, "NORMAL")
        self._clock = clock
        self._directory = directory
        sessions = session_factory(self._engine, read_only=True)
        self._snapshot = SnapshotJob(sessions, self._lease_store(), self.blobs, clock)
        self._ledger = LedgerJob(self._engine, self.log, self._lease_store(), WORKERS, config.currency)
        self._pacing = PacingJob(sessions, self._lease_store(), self.blobs, clock, WORKERS)
        self.traffic = TrafficJob(sessions, self.log, self.blobs, clock, WORKERS, config, self.profiles)
        self._make_bidder(config)
        self._tasks: list[asyncio.Task[None]] = []

    def _make_bidder(self, config: PlatformConfig) -> None:
        clock, serving, leases, self._bidder_leases = self._clock, Serving(), LeaseBook(0), self._lease_store()
        self._users = LocalUserStore(
            self._directory / "users.db", window_ms=serving.cap_window_ms, save_interval_ms=_USERS_SAVE_MS
        )
        self._sync = LeaseSync(self._bidder_leases, leases, BIDDER.holder, BIDDER.lease_sync_interval_ms, clock)
        self._reloader = Reloader(serving, self.blobs, self._directory / "models", BIDDER.reload_interval_ms)
        deployment = Deployment(config, self.profiles, [_KEY])
        auctioneer, desk, self._outbox = wire(
            deployment, BIDDER, clock, self.log, serving=serving, leases=leases, users=self._users
        )
        self.client = Inside(auctioneer, desk, self.profiles, clock)

    def _lease_store(self) -> LocalLeaseStore:
        return LocalLeaseStore(self._directory / "leases.db", "NORMAL")

    async def start(self) -> None:
        """Start the workers, then the bidder."""
        await self._work(self._snapshot, WORKERS.snapshot_poll_ms)
        await self._work(self._ledger, WORKERS.ledger_step_ms)
        await self._work(self._pacing, WORKERS.pacing_step_ms)
        await self._work(self.traffic, TRAFFIC_STEP_MS)
        await self._users.open()
        await self._bidder_leases.open()
        await self._outbox.start()
        await self._reloader.start()
        await self._repeat(self._sync.sync, BIDDER.lease_sync_interval_ms)

    async def stop(self) -> None:
        """Enter the last notices in the book, and release everything."""
        self.check()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reloader.stop()
        await self._outbox.stop(10.0)
        await self._sync.sync(final=True)
        while await self._ledger.step():
            pass
        for part in (self._users, self._bidder_leases, self._snapshot, self._ledger, self._pacing, self.traffic):
            await part.close()
        self._engine.dispose()

    def check(self) -> None:
        """Raise what a worker raised: nothing goes wrong here that could be tried again."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _work(self, job: Job, every_ms: int) -> None:
        async def step() -> None:
            while await job.step():
                pass

        await job.open()
        await self._repeat(step, every_ms)

    async def _repeat(self, step: Callable[[], Awaitable[object]], every_ms: int) -> None:
        """Do a step now, and then again and again."""

        async def forever() -> None:
            while True:
                await asyncio.sleep(every_ms / MS_PER_SECOND)
                await step()

        await step()
        self._tasks.append(asyncio.create_task(forever()))


class Inside(Client):
    """The exchange's way to a bidder in the same process."""

    def __init__(
        self, auctioneer: Auctioneer, desk: NoticeDesk, profiles: Mapping[str, Profile], clock: ManualClock
    ) -> None:
        super().__init__()
        self._auctioneer = auctioneer
        self._desk = desk
        self._profiles = profiles
        self._clock = clock

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a bid request."""
        profile, encoding = self._profiles[url.rpartition("/")[2]], headers.get("Content-Encoding", "")
        arrival = Arrival(profile, body, encoding, self._clock.now_ms() * NS_PER_MS)
        answer = await self._auctioneer.answer(arrival)
        return Answer(answer.status, answer.body, "")

    async def get(self, url: str) -> Answer:
        """Send a notice."""
        parts = urlsplit(url)
        outcome = await self._desk.receive(NoticeKind(parts.path.removeprefix("/")), parse_query(parts.query))
        return Answer(outcome.status, b"", outcome.location)
