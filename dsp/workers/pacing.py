"""Compares spend with plan every second and publishes the controls; returns to the budgets what dead bidders held.

Where there are more line items than a second is enough for, each has its turn every few seconds: a controller whose
flight runs all day looks back over ten minutes.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from sqlalchemy.orm import Session, sessionmaker

from dsp.cache.connect import blob_store, lease_store
from dsp.cache.port import BlobStore, LeaseStore
from dsp.catalog.entities import Catalogue
from dsp.kernel import logging, metrics
from dsp.kernel.clock import Clock, SystemClock, monotonic_ms
from dsp.pacing import columns, plan, revaluation
from dsp.pacing.columns import PACED_BLOB
from dsp.pacing.controller import CONTROLS_BLOB, Controls, Law, decode, encode
from dsp.pacing.revaluation import REVALUED_BLOB, rescale
from dsp.pacing.traffic import TRAFFIC_BLOB, Curves
from dsp.pacing.traffic import decode as decode_traffic
from dsp.store.book import DayResult
from dsp.store.database import create_engine, session_factory, url
from dsp.store.leader import Leadership
from dsp.store.replica import Replica
from dsp.workers import runner
from dsp.workers.config import WorkersConfig
from dsp.workers.controls import Turn, next_controls
from dsp.workers.overspend import overspent_micros
from dsp.workers.results import Results
from dsp.workers.single import Single

RECLAIM_INTERVAL_MS = 5_000
_Published = TypeVar("_Published")


class PacingJob:
    """Reads the catalogue and the book, and keeps its state in what it publishes, so that a restart goes on."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        leases: LeaseStore,
        blobs: BlobStore,
        clock: Clock,
        workers: WorkersConfig,
    ) -> None:
        self._sessions = sessions
        self._leases = leases
        self._blobs = blobs
        self._clock = clock
        self._workers = workers
        self._law = Law()
        self._replica, self._revision = Replica(), -1
        self._catalogue = Catalogue()
        self._results = Results()
        self._turn = Turn()
        self.controls = Controls(at_ms=0)  # as they were published last
        self._curves = Curves(configured=workers.traffic_curve)
        self._versions = dict.fromkeys((CONTROLS_BLOB, TRAFFIC_BLOB, REVALUED_BLOB), "")  # looked at last
        self._reclaim_due_ms = 0  # by the monotonic clock

    async def open(self) -> None:
        await self._leases.open()
        await self._blobs.open()
        self.controls = await self._news(CONTROLS_BLOB, decode) or self.controls

    async def close(self) -> None:
        await self._leases.close()
        await self._blobs.close()

    async def step(self) -> bool:
        """Publish the next controls; now and then, take back dead bidders' leases."""
        days = self._read()
        now_ms = self._clock.now_ms()
        traffic = await self._news(TRAFFIC_BLOB, decode_traffic)
        if traffic is not None:
            self._curves = Curves(traffic, self._workers.traffic_curve)
            plan.forget()
        self._turn = self._turn.after(len(self._catalogue.line_items))
        if await self._follow_values():
            self._turn = Turn()  # all multipliers are to be for the same values
        self.controls = next_controls(self._catalogue, days, self.controls, self._curves, self._law, now_ms, self._turn)
        await self._blobs.put(PACED_BLOB, columns.encode(columns.paced(self.controls)))
        if self._turn.number == 0:  # all have had theirs
            metrics.CAMPAIGNS_CLOSED.set(sum(control.closed for control in self.controls.campaigns.values()))
            metrics.OVERSPENT.set(overspent_micros(self._catalogue, days, now_ms))
            await self._blobs.put(CONTROLS_BLOB, encode(self.controls))
        elapsed_ms = monotonic_ms(self._clock)
        if elapsed_ms >= self._reclaim_due_ms:
            self._reclaim_due_ms = elapsed_ms + RECLAIM_INTERVAL_MS
            returned = await self._leases.reclaim(now_ms, self._workers.lease_holder_timeout_ms)
            if returned:
                logging.get(__name__).info("dead bidders' leases returned", micros=returned)
        return False

    async def _news(self, name: str, decode: Callable[[bytes], _Published]) -> _Published | None:
        """Return what was published under a name since the last look; what cannot be read is as if it were not."""
        found = await self._blobs.get(name, self._versions[name])
        if found is None:
            return None
        self._versions[name], data = found
        try:
            return decode(data)
        except msgspec.DecodeError as fault:
            logging.get(__name__).error("unreadable, what was known stays", blob=name, fault=str(fault))
            return None

    async def _follow_values(self) -> bool:
        """Scale levels by what bidders say that another predictor does to values; return whether they do."""
        told = await self._news(REVALUED_BLOB, revaluation.decode)
        if told is None:
            return False
        campaigns = {line_item.id: line_item.campaign_id for line_item in self._catalogue.line_items}
        before, self.controls = self.controls, rescale(self.controls, told, campaigns, self._law)
        return self.controls is not before

    def _read(self) -> list[DayResult]:
        with self._sessions() as session:
            self._replica.follow(session)
            if self._replica.revision != self._revision:
                self._catalogue, self._revision = self._replica.catalogue(), self._replica.revision
            return self._results.read(session, self._clock.now_ms())


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the pacing worker on the stores that the settings ask for."""
    platform, workers = runner.sections(settings)
    clock = SystemClock()
    engine = create_engine(url(platform))
    job = PacingJob(
        session_factory(engine, read_only=True),
        lease_store(platform),
        blob_store(platform),
        clock,
        workers,
    )
    await runner.run("pacing", settings, Single(job, Leadership(engine, "pacing")), workers.pacing_step_ms)
