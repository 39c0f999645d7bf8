"""Writes decisions and notices as Parquet files by hour, each record in exactly one file whatever dies in between.

Files are complete before the position is committed. A killed worker's files that lie beyond the committed position
are removed and written anew, so a record is never in two. What the files hold is said in training_rows.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]

from dsp.events.schema import BidsSent, Decision, Notice
from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_HOUR, MS_PER_SECOND, Clock, SystemClock, monotonic_ms
from dsp.kernel.errors import UnavailableError
from dsp.kernel.locks import lock_folder
from dsp.store.book import BookRepository
from dsp.store.database import create_engine, session_factory, url
from dsp.stream.connect import event_log
from dsp.stream.port import Batch, EventLog, Position, Record
from dsp.workers import retention, runner
from dsp.workers.config import WorkersConfig
from dsp.workers.dead_letters import park, sift
from dsp.workers.hourly import HourlyFiles
from dsp.workers.training_rows import BIDS_SCHEMA, NOTICES_SCHEMA, bid_rows, notice_rows

GROUP = "training_log"


class DataSet(NamedTuple):
    """A topic, the data set its records of one kind go to, and how a record becomes rows."""

    topic: Topic
    folder: str
    schema: pa.Schema
    kind: type[Decision] | type[Notice]
    rows: Callable[[Any], list[dict[str, Any]]]


DATA_SETS = (
    DataSet(Topic.DECISIONS, "bids", BIDS_SCHEMA, Decision, bid_rows),
    DataSet(Topic.NOTICES, "notices", NOTICES_SCHEMA, Notice, notice_rows),
)


class _Shelf:
    """One data set's records that are read and not yet written, and the position that writing them will reach."""

    def __init__(self, data_set: DataSet, root: Path) -> None:
        self.data_set = data_set
        self.files = HourlyFiles(root / data_set.folder, data_set.schema)
        self.certain = False  # that files and committed position agree
        self.reset({})

    def reset(self, position: Position) -> None:
        self.position = dict(position)
        self.records: list[Record] = []
        self.rows: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        self.count = 0
        self.since_ms = 0  # by the monotonic clock

    def add(self, batch: Batch, found: Sequence[tuple[Record, Decision | Notice]], elapsed_ms: int) -> None:
        if batch.records and not self.records:
            self.since_ms = elapsed_ms
        for record, event in found:
            made = [(event.at_ms, row) for row in self.data_set.rows(event)]
            self.rows.setdefault(record.partition, []).extend(made)
            self.count += len(made)
        self.records += batch.records
        self.position = dict(batch.position)

    def write(self) -> None:
        for partition in sorted({record.partition for record in self.records}):
            offsets = [record.offset for record in self.records if record.partition == partition]
            self.files.write(partition, offsets[0], offsets[-1], self.rows.get(partition, []))


class TrainingLogJob:
    """Reads both topics, writes when enough has come or the oldest has waited long enough, and trims the log."""

    def __init__(
        self,
        log: EventLog,
        root: Path,
        clock: Clock,
        workers: WorkersConfig,
        readers: Mapping[Topic, Sequence[retention.Reader]],
    ) -> None:
        self._log = log
        self._root = root
        self._clock = clock
        self._workers = workers
        self._readers = readers
        self._shelves = [_Shelf(data_set, root) for data_set in DATA_SETS]
        self._trim_due_ms = 0  # by the monotonic clock
        self._lock: int | None = None

    async def open(self) -> None:
        if self._lock is None:
            self._lock = lock_folder(self._root)  # a predecessor may be paused and not dead
            if self._lock is None:
                raise UnavailableError(f"{self._root} is being written by another process")
        await self._log.open()

    async def close(self) -> None:
        """Write what has been read, so that a stop leaves nothing for the next start."""
        try:
            for shelf in self._shelves:
                await self._flush(shelf)
        finally:
            await self._log.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    async def step(self) -> bool:
        """Read one batch of each topic, and write what is due."""
        more = False
        for shelf in self._shelves:
            if not shelf.certain:
                await self._recover(shelf)
            batch = await self._log.read(shelf.data_set.topic, shelf.position, self._workers.batch_records)
            found: list[tuple[Record, Decision | Notice]]
            found, poison = sift(batch.records, shelf.data_set.kind, beside=(BidsSent,))
            await park(self._log, shelf.data_set.topic, GROUP, poison)
            elapsed_ms = monotonic_ms(self._clock)
            shelf.add(batch, found, elapsed_ms)
            more = more or not batch.end
            full = shelf.count >= self._workers.training_flush_records
            if full or elapsed_ms - shelf.since_ms >= self._workers.training_flush_ms:
                await self._flush(shelf)
        await self._trim()
        return more

    async def _recover(self, shelf: _Shelf) -> None:
        committed = await self._log.committed(shelf.data_set.topic, GROUP)
        removed = await asyncio.to_thread(shelf.files.recover, committed)
        if removed:
            logging.get(__name__).info("files to be written again", data_set=shelf.data_set.folder, files=removed)
        shelf.reset(committed)
        shelf.certain = True

    async def _flush(self, shelf: _Shelf) -> None:
        if not shelf.records:
            return
        topic = shelf.data_set.topic
        shelf.certain = False  # until the position is known to be committed
        await asyncio.to_thread(shelf.write)
        await self._log.commit(topic, GROUP, shelf.position)
        shelf.certain = True
        shelf.reset(shelf.position)
        metrics.CONSUMER_LAG.labels(topic=topic, group=GROUP).set(await self._log.lag(topic, shelf.position))

    async def _trim(self) -> None:
        elapsed_ms = monotonic_ms(self._clock)
        if elapsed_ms < self._trim_due_ms:
            return
        self._trim_due_ms = elapsed_ms + int(self._workers.trim_every_seconds * MS_PER_SECOND)
        before_ms = self._clock.now_ms() - int(self._workers.retention_hours * MS_PER_HOUR)
        dropped = await retention.trim(self._log, before_ms, self._readers)
        if any(dropped.values()):
            logging.get(__name__).info("event log trimmed", records=dropped)


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the training-log worker."""
    platform, workers = runner.sections(settings)
    clock = SystemClock()
    log = event_log(platform, clock)
    sessions = session_factory(create_engine(url(platform)), read_only=True)

    async def ledger() -> Position:
        identity = await log.identity(Topic.NOTICES)
        with sessions() as session:  # of another log it has read nothing of this one
            return BookRepository(session).position(identity)

    readers: dict[Topic, list[retention.Reader]] = {
        Topic.DECISIONS: [partial(log.committed, Topic.DECISIONS, GROUP)],
        Topic.NOTICES: [partial(log.committed, Topic.NOTICES, GROUP), ledger],
        Topic.REQUESTS: [],
        Topic.DEAD_LETTERS: [],
    }
    job = TrainingLogJob(log, platform.data_path / "training", clock, workers, readers)
    await runner.run("training_log", settings, job, min(workers.wait_ms, workers.training_flush_ms // 4))
