"""`python -m models online`: learns the prior from the event log while impressions come, and publishes it.

The state on disk is the learner's and its position in the log at once, replaced as a whole: a killed process goes on
from its last state, and learns what came since then again, no more and no less.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec

from dsp.cache.connect import blob_store
from dsp.cache.port import BlobStore
from dsp.events.schema import Decision, Notice
from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, Clock, SystemClock, monotonic_ms
from dsp.kernel.errors import BundleError, UnavailableError
from dsp.kernel.files import replace
from dsp.kernel.locks import lock_folder
from dsp.stream.connect import event_log
from dsp.stream.port import EventLog, Position
from dsp.workers import runner
from dsp.workers.dead_letters import sift
from models.serving.online import PRIOR_BLOB
from models.training import learner
from models.training.config import TrainingConfig
from models.training.learner import Learner
from models.training.pending import Counts

GROUP = "online"
STATE = "state"
#: How often the log is looked at.
STEP_MS = 1_000
#: What was decided may reach the log a little after what was told of it: both are taken as known so long after.
SETTLE_MS = 5_000
#: How often state is saved; what came since then is learned again after a kill.
SAVE_MS = 60 * MS_PER_SECOND
#: A topic is not read further than this beyond the other: what waits to be joined takes memory.
_AHEAD_MS = 1_000
_BATCH_RECORDS = 1_000
_NICE = 10
_TOPICS = (Topic.DECISIONS, Topic.NOTICES)


class OnlineJob:
    """Reads decisions and notices, learns what falls due, publishes the regressions, saves state and position."""

    def __init__(self, log: EventLog, blobs: BlobStore, root: Path, clock: Clock, config: TrainingConfig) -> None:
        self._log = log
        self._blobs = blobs
        self._root = root
        self._clock = clock
        self._config = config
        self._learner = self._begin()
        self._read: dict[str, Position] = {}
        self._watermarks = dict.fromkeys(_TOPICS, 0)
        self._newest_ms = 0  # the latest stamp read
        self._counted = Counts()
        self._news = False  # whether anything was learned that is not published
        self._publish_due_ms = self._save_due_ms = 0  # by the monotonic clock
        self._lock: int | None = None

    @property
    def learner(self) -> Learner:
        """Return what has been learned so far."""
        return self._learner

    async def open(self) -> None:
        """Go on from the saved state; one that cannot be read is reported, and what the log still has learned anew."""
        if self._lock is None:
            self._lock = await asyncio.to_thread(lock_folder, self._root)
            if self._lock is None:
                raise UnavailableError(f"another process learns in {self._root}")
        await self._log.open()
        await self._blobs.open()
        found = await asyncio.to_thread(self._saved)
        self._learner = found if found is not None else self._begin()
        self._read = {topic: dict(self._learner.positions.get(topic, {})) for topic in _TOPICS}
        self._watermarks, self._newest_ms, self._counted = dict.fromkeys(_TOPICS, 0), 0, Counts()
        metrics.ONLINE_PENDING_MAX.set(self._config.online_pending_max)
        elapsed_ms = monotonic_ms(self._clock)
        self._publish_due_ms, self._save_due_ms = elapsed_ms, elapsed_ms + SAVE_MS

    async def close(self) -> None:
        """Save, so that less need be read again."""
        try:
            await self._save()
        finally:
            await self._blobs.close()
            await self._log.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    async def step(self) -> bool:
        """Read a batch of each topic that is not ahead, and learn what falls due; return whether more is waiting."""
        more = False
        before_ms = min(self._watermarks.values()) + _AHEAD_MS
        for topic in _TOPICS:
            if self._watermarks[topic] <= before_ms:
                more |= not await self._take(topic)
        until_ms = min(self._watermarks.values()) - SETTLE_MS
        if until_ms > 0:
            self._news |= self._learner.advance(until_ms) > 0
        self._learner.note(self._newest_ms, self._read)
        self._report()
        elapsed_ms = monotonic_ms(self._clock)
        if elapsed_ms >= self._save_due_ms:
            await self._save()
            self._save_due_ms = elapsed_ms + SAVE_MS
        if elapsed_ms >= self._publish_due_ms:
            await self._publish()
            self._publish_due_ms = elapsed_ms + round(self._config.online_publish_seconds * MS_PER_SECOND)
        return more

    async def _take(self, topic: Topic) -> bool:
        """Read one batch; return whether it reached the topic's end."""
        batch = await self._log.read(topic, self._read.get(topic, {}), _BATCH_RECORDS, fresh=True)
        # What is no event the training-log worker parks: here it would be parked again with every start.
        if topic is Topic.DECISIONS:
            for record, decision in sift(batch.records, Decision)[0]:
                self._learner.decided(decision, record.appended_ms)
        else:
            for record, notice in sift(batch.records, Notice)[0]:
                self._learner.told(notice, record.appended_ms)
        self._read[topic] = dict(batch.position)
        self._newest_ms = max([self._newest_ms, *(record.appended_ms for record in batch.records)])
        self._watermarks[topic] = max(self._watermarks[topic], batch.watermark_ms)
        return batch.end

    async def _publish(self) -> None:
        for topic in _TOPICS:
            metrics.CONSUMER_LAG.labels(topic.value, GROUP).set(await self._log.lag(topic, self._read[topic]))
        if not self._news:
            return
        blob = await asyncio.to_thread(self._learner.blob)
        if blob is not None:
            await self._blobs.put(PRIOR_BLOB, blob)
            self._news = False

    async def _save(self) -> None:
        await asyncio.to_thread(replace, self._root / STATE, self._learner.state())

    def _saved(self) -> Learner | None:
        path = self._root / STATE
        try:
            return learner.resume(path.read_bytes(), *self._terms())
        except FileNotFoundError:
            return None
        except BundleError as fault:
            logging.get(__name__).error("state unreadable, learned anew", path=str(path), fault=str(fault))
            return None

    def _begin(self) -> Learner:
        return learner.begin(*self._terms())

    def _terms(self) -> tuple[int, int, int]:
        config = self._config
        return round(config.maturity_seconds * MS_PER_SECOND), config.online_pending_max, config.clicks_min

    def _report(self) -> None:
        """Bring the metrics up to what has been counted."""
        pending = self._learner.pending
        for name in Counts.__slots__:
            found = getattr(pending.counts, name)
            metrics.ONLINE_ROWS.labels(name).inc(found - getattr(self._counted, name))
            setattr(self._counted, name, found)
        metrics.ONLINE_PENDING.set(len(pending))
        metrics.ONLINE_LEARNED.set(self._learner.learned_to_ms / MS_PER_SECOND)
        for target, gain in self._learner.gains.items():
            metrics.ONLINE_LOSS.labels(target.value).set(gain.ratio)


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the online learner, at low priority: bids are in more of a hurry."""
    os.nice(_NICE)
    platform, _ = runner.sections(settings)
    clock = SystemClock()
    job = OnlineJob(
        event_log(platform, clock),
        blob_store(platform),
        platform.data_path / "models" / "online",
        clock,
        cast(TrainingConfig, settings["training"]),
    )
    await runner.run(GROUP, settings, job, STEP_MS)
