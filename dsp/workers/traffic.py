"""Learns at which hours the impressions come that each line item may bid on, from the sample of requests in the log."""

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from dsp.cache.connect import blob_store
from dsp.cache.port import BlobStore
from dsp.catalog.reasons import Exclusion
from dsp.events.schema import SampledRequest
from dsp.events.topics import Topic
from dsp.funnel import offered, select
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, Clock, SystemClock, monotonic_ms
from dsp.kernel.config import Platform
from dsp.kernel.errors import InputError
from dsp.openrtb.profile import Profile, load_profiles
from dsp.pacing.columns import align
from dsp.pacing.traffic import TRAFFIC_BLOB, Traffic, decode, encode
from dsp.snapshot.build import Snapshot, build
from dsp.snapshot.unbound import unbound
from dsp.store.database import create_engine, session_factory, url
from dsp.store.leader import Leadership
from dsp.store.replica import Replica
from dsp.stream.connect import event_log
from dsp.stream.port import EventLog
from dsp.workers import runner
from dsp.workers.config import WorkersConfig
from dsp.workers.dead_letters import park, sift
from dsp.workers.single import Single

GROUP = "traffic"
#: How often the log is looked at: nothing is in a hurry to know at which hours traffic comes.
STEP_MS = 5_000
#: How often what was learned is published; what came since then is read again after a kill.
PUBLISH_INTERVAL_MS = 60 * MS_PER_SECOND
#: So far ahead of this process's clock another's may be.
_AHEAD_MS = 60 * MS_PER_SECOND


class TrafficJob:
    """Runs recall and match over each sampled request; its state and its position in the log are what it publishes."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        log: EventLog,
        blobs: BlobStore,
        clock: Clock,
        workers: WorkersConfig,
        platform: Platform,
        profiles: Mapping[str, Profile],
    ) -> None:
        self._sessions = sessions
        self._log = log
        self._blobs = blobs
        self._clock = clock
        self._workers = workers
        self._platform = platform
        self._profiles = profiles
        self._traffic = Traffic()
        self._replica = Replica()
        self.snapshot: Snapshot | None = None  # what requests are counted against
        self._compile_due = True  # it stays to be until it is done
        self._controls = align(None, np.empty(0, dtype=np.int64))
        self._publish_due_ms = 0  # by the monotonic clock

    async def open(self) -> None:
        await self._log.open()
        await self._blobs.open()
        self._publish_due_ms = monotonic_ms(self._clock) + PUBLISH_INTERVAL_MS
        found = await self._blobs.get(TRAFFIC_BLOB)
        if found is None:
            return
        try:
            self._traffic = decode(found[1])
        except msgspec.DecodeError as fault:
            logging.get(__name__).error("traffic unreadable, learned anew", fault=str(fault))

    async def close(self) -> None:
        """Publish what has been counted, so that it need not be read again, and release connections."""
        try:
            if self.snapshot is not None:  # else nothing was, and what was learned before is perhaps not read back
                await self._blobs.put(TRAFFIC_BLOB, encode(self._traffic))
        finally:
            await self._log.close()
            await self._blobs.close()

    async def step(self) -> bool:
        """Count one batch of sampled requests; return whether more is waiting."""
        snapshot = self._compile()
        batch = await self._log.read(Topic.REQUESTS, self._traffic.position, self._workers.batch_records)
        found, poison = sift(batch.records, SampledRequest)
        await park(self._log, Topic.REQUESTS, GROUP, poison)
        # By the bidders' clocks: the log's stamps never go back, so they are off for good once its clock was ahead. A
        # bidder's clock that is ahead would make the day of all others an old one.
        latest_ms = self._clock.now_ms() + _AHEAD_MS
        arrivals = [
            (request.at_ms, line_item_ids)
            for _, request in found
            if request.at_ms <= latest_ms
            for line_item_ids in self._eligible(snapshot, request)
        ]
        for at_ms, line_item_ids in arrivals:
            self._traffic.add(at_ms, line_item_ids)
        self._traffic.position = dict(batch.position)
        elapsed_ms = monotonic_ms(self._clock)
        if elapsed_ms >= self._publish_due_ms:
            await self._blobs.put(TRAFFIC_BLOB, encode(self._traffic))
            self._publish_due_ms = elapsed_ms + PUBLISH_INTERVAL_MS
        lag = 0 if batch.end else await self._log.lag(Topic.REQUESTS, self._traffic.position)
        metrics.CONSUMER_LAG.labels(Topic.REQUESTS.value, GROUP).set(lag)
        return not batch.end

    def _compile(self) -> Snapshot:
        """Return the catalogue, compiled anew when its rules have changed, and know its line items.

        Supply is there whether or not it may be bought: a pause compiles nothing, nor does a budget. What was archived
        is counted until the next change of rules.
        """
        with self._sessions() as session:
            writes = self._replica.follow(session)
        self._compile_due |= writes is None or not all(write.keeps_rules for write in writes)
        if self.snapshot is None or self._compile_due:
            number = self._replica.revision
            snapshot = build(unbound(self._replica.catalogue()), f"r{number}", self._clock.now_ms())
            self._traffic.know(snapshot.line_item_ids.tolist())
            self.snapshot = snapshot
            self._controls = align(None, snapshot.line_item_ids)
            self._compile_due = False
        return self.snapshot

    def _eligible(self, snapshot: Snapshot, sampled: SampledRequest) -> Iterator[list[int]]:
        """Yield, for each impression of a request, the line items that may bid on it."""
        profile = self._profiles.get(sampled.exchange)
        if profile is None:
            return
        try:
            found, _ = offered(sampled.body, profile, self._platform, sampled.at_ms)
        except InputError:  # the bidder took it, so it is of another version of the software
            return
        everybody = max(1, len(snapshot.line_items))
        for opportunity in found:
            if opportunity.test:
                continue
            chosen = select(snapshot, opportunity, None, self._controls, sampled.at_ms, everybody, profile.seat)
            yield [] if isinstance(chosen, Exclusion) else snapshot.line_item_ids[chosen.line_items].tolist()


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the traffic worker on the stores that the settings ask for."""
    platform, workers = runner.sections(settings)
    clock, engine = SystemClock(), create_engine(url(platform))
    job = TrafficJob(
        session_factory(engine, read_only=True),
        event_log(platform, clock),
        blob_store(platform),
        clock,
        workers,
        platform,
        load_profiles(platform.exchanges_dir),
    )
    await runner.run("traffic", settings, Single(job, Leadership(engine, "traffic")), STEP_MS)
