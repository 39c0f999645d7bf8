"""Puts the bidder together on the stores that are set, starts it in order, drains it and stops it in reverse."""

import asyncio
import gc
import sys
from collections.abc import Mapping
from functools import partial
from typing import cast

import msgspec

from bidder.admin import AdminHandler
from bidder.admission import Admission
from bidder.cohort import Cohort
from bidder.compiling import Compiler
from bidder.config import BidderConfig
from bidder.exposures import REPLAY_SECONDS, SHARED_REPLAY_SECONDS, ExposureReplay
from bidder.handlers import BidHandler, NoticeHandler
from bidder.listener import Listener
from bidder.priority import precede
from bidder.readiness import Readiness
from bidder.reload import Reloader
from bidder.salvage import Place, Salvage
from bidder.state import Serving
from bidder.sync import LeaseSync
from bidder.wiring import Deployment, wire
from dsp import registry
from dsp.cache.connect import blob_store, lease_store, user_store
from dsp.kernel import limits, logging, metrics, process, tracing
from dsp.kernel.clock import MS_PER_SECOND, NS_PER_MS, SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.keys import signing_keys
from dsp.kernel.lifecycle import Lifecycle, cancel
from dsp.kernel.tracing import Tracer
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.profile import load_profiles
from dsp.stream.connect import event_log
from models.serving.batcher import Batcher, ThreadWorker
from models.serving.session import Device, choose

#: While draining, so long without a request means that the load balancers have understood.
QUIET_MS = 500
#: Requests leave next to no cycles behind, but clients of servers do, most when these are away. So the collector is
#: asked for little at a time, as every bid in flight waits for it, and looks at the old ones hardly ever.
GC_THRESHOLDS = (2_000, 10, 2_000)
SWITCH_INTERVAL_SECONDS = 0.000_5
_WATCH_PERIOD_SECONDS = 0.25
_WATCH_PERIODS = 4
#: Files that a bidder has open beside its connections to the bid and notice ports: some forty, and clients of servers.
_FILES_OWN = 256
_NOTICE_BODY_BYTES_MAX = 65_536


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run one bidder process until a signal or the supervisor's death ends it."""
    platform = cast(Platform, settings["platform"])
    logging.configure("bidder", platform.log_level)
    process.describe(settings)
    # Threads write to disk and load models; none of them may keep a bid waiting for 5 ms.
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    bidding = cast(BidderConfig, settings["bidder"])
    logging.get(__name__).info("event loop's priority", nice=precede(bidding.loop_nice))
    lifecycle = Lifecycle()
    bidder = Bidder(platform, bidding)
    try:
        await bidder.start(lifecycle)
        await lifecycle.wait_for_stop()
    finally:
        await lifecycle.stop()


class Bidder:
    """One bidder process: every part, and the order in which they live."""

    def __init__(self, platform: Platform, settings: BidderConfig) -> None:
        self.settings = settings
        clock, data = SystemClock(), platform.data_path
        profiles = load_profiles(platform.exchanges_dir)
        # Of several processes on one machine each has its own memory of users, caught up from the common log, unless
        # they share a server's.
        users_file = f"users-{settings.holder}.db" if settings.reuse_port else "users.db"
        self._clock = clock
        self._log = event_log(platform, clock)
        self.serving = Serving()
        self._users = user_store(
            platform, users_file, settings.exposures_max, settings.user_exposures_max, self.serving.cap_window_ms,
            settings.users_max,
        )  # fmt: skip
        self._lease_store, leases = lease_store(platform), LeaseBook(0)
        self._blobs = blob_store(platform)
        deployment = Deployment(platform, profiles, signing_keys(platform))
        device = Device(choose(settings.predict_provider), settings.predict_batching, settings.predict_batch_rows_max)
        self._batcher = _batcher(settings, clock) if device.batches(device.provider) else None
        self._tracer = _tracer(settings, clock) if settings.trace_share else None
        # An event log on a server may be away; the one in the data directory is where the disk would be.
        self._spill = Place(data / "spill" / settings.holder, clock) if platform.stream_url else None
        auctioneer, desk, self.outbox = wire(
            deployment, settings, clock, self._log, serving=self.serving, leases=leases, users=self._users,
            batcher=self._batcher, tracer=self._tracer, spill=self._spill.store if self._spill is not None else None,
        )  # fmt: skip
        # Of what the other processes count a process learns from the log, so it must read that often.
        several = settings.reuse_port or bool(platform.cache_url)
        replay_seconds = SHARED_REPLAY_SECONDS if several else REPLAY_SECONDS
        self._exposures = ExposureReplay(self._log, self._users, auctioneer.pending, clock, replay_seconds)
        self.readiness = Readiness(self.serving, self.outbox)
        self._sync = LeaseSync(self._lease_store, leases, settings.holder, settings.lease_sync_interval_ms, clock)
        self._registry = data / "models"
        self._compiler = Compiler()
        self._reloader = Reloader(
            self.serving, self._blobs, self._registry, settings.reload_interval_ms, device, self._compiler
        )
        self._admission, self._counter = auctioneer.admission, auctioneer.journal.counter
        self._bids = BidHandler(profiles, auctioneer, self.readiness)
        notices, admin = NoticeHandler(desk), AdminHandler(self.readiness, self._refresh)
        room = _connections_max(settings.connections_max)
        self.bid_port = _listener(self._bids, settings, settings.body_bytes_max, room, cohort=auctioneer.cohort)
        self.notice_port = _listener(notices, settings, _NOTICE_BODY_BYTES_MAX, room, settings.outbox_notices_flush_ms)
        self.admin_port = _listener(admin, settings, _NOTICE_BODY_BYTES_MAX, room)

    async def start(self, lifecycle: Lifecycle) -> None:
        """Start every part. Ports open at once; until a snapshot is loaded bid requests get 204, reason `not_ready`."""
        settings, timeout_s = self.settings, self.settings.drain_timeout_ms / MS_PER_SECOND
        shared = settings.reuse_port
        if (tracer := self._tracer) is not None:
            await lifecycle.start(asyncio.sleep(0), tracer.close)
        await lifecycle.start(self._log.open(), self._log.close)
        await lifecycle.start(self._users.open(), self._users.close)
        await lifecycle.start(self._lease_store.open(), self._lease_store.close)
        await lifecycle.start(self._blobs.open(), self._blobs.close)
        await lifecycle.start(
            self.admin_port.listen(settings.admin_host, settings.admin_port, False),
            lambda: self.admin_port.close(timeout_s),
        )
        await lifecycle.start(self._exposures.start(), self._exposures.stop)
        if (spill := self._spill) is not None:
            salvage = Salvage(spill.path, self._clock, self._log, self.outbox.topics)
            await lifecycle.start(spill.open(), spill.close)
            await lifecycle.start(salvage.start(), salvage.stop)
        await lifecycle.start(self.outbox.start(), self._flush)
        await lifecycle.start(self._counter.start(), self._counter.stop)
        await lifecycle.start(self._sync.start(), self._sync.stop)
        await lifecycle.start(self._reloader.start(), self._reloader.stop)
        await lifecycle.start(asyncio.sleep(0), self._compiler.stop)
        if (batcher := self._batcher) is not None:
            await lifecycle.start(batcher.start(), lambda: batcher.stop(timeout_s))
        await lifecycle.start(
            self.notice_port.listen(settings.host, settings.notice_port, shared),
            lambda: self.notice_port.close(timeout_s),
        )
        # What has been made so far stays: the collector need never look at it again, nor pause bids for it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await lifecycle.start(self.bid_port.listen(settings.host, settings.bid_port, shared), self._drain)
        watch = asyncio.create_task(_watch(self._admission), name="watch")
        await lifecycle.start(asyncio.sleep(0), partial(cancel, watch))
        self.readiness.listening = True
        lifecycle.ready()
        logging.get(__name__).info(
            "listening", bid=self.bid_port.port, notice=self.notice_port.port, admin=self.admin_port.port
        )

    async def _drain(self) -> None:
        """Let load balancers see that we are not ready, then say no and close connections, then close the port."""
        self.readiness.stopping = True
        await asyncio.sleep(self.settings.drain_wait_ms / MS_PER_SECOND)
        self.readiness.draining = True
        give_up_ns = self._clock.elapsed_ns() + self.settings.drain_timeout_ms * NS_PER_MS
        began_ns = self._clock.elapsed_ns()
        while self.bid_port.connections and self._clock.elapsed_ns() < give_up_ns:
            if self._clock.elapsed_ns() - max(began_ns, self._bids.latest_ns) > QUIET_MS * NS_PER_MS:
                break
            await asyncio.sleep(0.01)
        await self.bid_port.close(self.settings.drain_timeout_ms / MS_PER_SECOND)

    async def _flush(self) -> None:
        lost = await self.outbox.stop(self.settings.drain_timeout_ms / MS_PER_SECOND)
        if lost:
            logging.get(__name__).error("decisions lost", records=lost)

    async def _refresh(self) -> None:
        self.serving.report_ages(self._clock.now_ms())
        self._sync.report()
        self.outbox.report()
        for name, port in (("bid", self.bid_port), ("notice", self.notice_port)):
            metrics.CONNECTIONS.labels(name).set(len(port.connections))
            metrics.CONNECTIONS_CLOSED.labels(name).inc(port.crowded_out)
            port.crowded_out = 0
        if self._batcher is not None:
            self._batcher.report()
        ends = await asyncio.to_thread(registry.last_ends, self._registry)  # it may be on a slow network's disk
        metrics.NIGHTLY_SUCCESS.set(ends.well)
        metrics.NIGHTLY_FAILURE.set(ends.badly)


def _listener(
    handler: BidHandler | NoticeHandler | AdminHandler,
    settings: BidderConfig,
    body_bytes_max: int,
    connections_max: int,
    gather_ms: int = 0,
    cohort: Cohort | None = None,
) -> Listener:
    keepalive, patience = settings.keepalive_seconds, settings.request_seconds_max
    gather_seconds = gather_ms / MS_PER_SECOND
    return Listener(
        handler, handler.broken, body_bytes_max, keepalive, patience, gather_seconds, cohort, connections_max
    )


def _connections_max(wanted: int) -> int:
    """Return how many connections each port may have, so that there are files left for the process's own work."""
    allowed = (limits.allow_files(_FILES_OWN + 2 * wanted) - _FILES_OWN) // 2
    found = max(1, min(wanted, allowed))
    if found < wanted:
        logging.get(__name__).warning("too few files allowed (ulimit -n), fewer connections", connections_max=found)
    metrics.CONNECTIONS_MAX.set(found)
    return found


def _batcher(settings: BidderConfig, clock: SystemClock) -> Batcher:
    rows_max, wait_ms = settings.predict_batch_rows_max, settings.predict_batch_wait_ms
    return Batcher(rows_max, wait_ms, settings.predict_queue_rows_max, clock, ThreadWorker())


def _tracer(settings: BidderConfig, clock: SystemClock) -> Tracer:
    return tracing.connect(settings.trace_url, settings.trace_share, clock, "dsp-bidder", settings.holder)


async def _watch(admission: Admission) -> None:
    """Show of the last second how late timers fired at worst, and how many requests were in flight at most."""
    loop = asyncio.get_running_loop()
    while True:
        worst = 0.0
        for _ in range(_WATCH_PERIODS):
            began = loop.time()
            await asyncio.sleep(_WATCH_PERIOD_SECONDS)
            worst = max(worst, loop.time() - began - _WATCH_PERIOD_SECONDS)
        metrics.EVENT_LOOP_LAG.set(worst)
        metrics.INFLIGHT.set(admission.most())
