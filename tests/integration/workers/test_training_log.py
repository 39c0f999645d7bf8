"""The training log against the embedded event log: every record in exactly one file, whatever dies."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from dsp.events.schema import Notice, NoticeKind, encode
from dsp.events.topics import Topic
from dsp.kernel.clock import ManualClock, SystemClock
from dsp.kernel.errors import UnavailableError
from dsp.store.migrate import upgrade
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry, Position
from dsp.workers.config import WorkersConfig
from dsp.workers.training_log import GROUP, TrainingLogJob
from tests.notices import BID, FACTS, bids_sent
from tests.notices import decision as decided

HOUR_MS = 3_600_000
AT_MS = 1_748_865_600_000 + HOUR_MS // 2
BEGIN = AT_MS * 1_000  # where the offsets of a log begin that is made then
BID_FACTS = msgspec.structs.replace(
    FACTS, price_micros_cpm=2_000_000, cost_micros_max=2_000, bid_at_ms=AT_MS, expires_at_ms=AT_MS + 60_000
)


def decision(number: int, at_ms: int = AT_MS, bids: int = 1) -> Entry:
    made = [
        msgspec.structs.replace(
            BID, ad_features=b"\x01" * 16, request_features=b"\x02" * 24, pcvr=0.001, value_micros_cpm=3_000_000,
            floor_micros_cpm=500_000, pacing_multiplier=0.7, facts=msgspec.structs.replace(
                BID_FACTS, auction_id=f"auction-{number}", bid_id=f"bid-{number}-{index}"
            ),
        )
        for index in range(bids)
    ]  # fmt: skip
    event = msgspec.structs.replace(decided(*made, feature_hash="abc"), at_ms=at_ms)
    return Entry(event.auction_id, encode(event))


def notice(number: int, kind: NoticeKind = NoticeKind.BILL, at_ms: int = AT_MS, **fields: Any) -> Entry:
    facts = msgspec.structs.replace(BID_FACTS, auction_id=f"auction-{number}", bid_id=f"bid-{number}-0")
    return Entry("3", encode(Notice(kind=kind, facts=facts, at_ms=at_ms, **fields)))


class Shop:
    """An event log and a training directory, and jobs on them."""

    def __init__(self, path: Path) -> None:
        self.root = path / "training"
        self.clock = ManualClock(AT_MS)
        self.log = LocalEventLog(path / "log", self.clock)
        self.ledger: Position = {}

    def job(self, **settings: Any) -> TrainingLogJob:
        async def committed_notices() -> Position:
            return await self.log.committed(Topic.NOTICES, GROUP)

        async def committed_decisions() -> Position:
            return await self.log.committed(Topic.DECISIONS, GROUP)

        async def ledger() -> Position:
            return self.ledger

        readers = {
            Topic.DECISIONS: [committed_decisions],
            Topic.NOTICES: [committed_notices, ledger],
            Topic.REQUESTS: [],
        }
        hurried = {"training_flush_ms": 1_000, **settings}
        return TrainingLogJob(self.log, self.root, self.clock, WorkersConfig(**hurried), readers)

    async def work(self, job: TrainingLogJob, steps: int = 3) -> None:
        for _ in range(steps):
            await job.step()
            self.clock.advance(1_000)

    def files(self, data_set: str = "bids") -> list[Path]:
        return sorted((self.root / data_set).rglob("*.parquet"))

    def rows(self, data_set: str = "bids") -> list[dict[str, Any]]:
        return [row for path in self.files(data_set) for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    await made.log.open()
    return made


async def test_numbers_that_no_file_can_hold_keep_nothing_else_from_being_written(shop: Shop) -> None:
    await shop.log.append(Topic.DECISIONS, [decision(1), decision(2, at_ms=1 << 62), decision(3)])
    bad = [notice(2, clearing_micros_cpm=1 << 63), notice(3, at_ms=-(1 << 62)), notice(4, loss_reason=(1 << 64) - 1)]
    await shop.log.append(Topic.NOTICES, [notice(1), *bad, notice(5)])
    job = shop.job()
    await job.open()
    await shop.work(job)
    assert [row["auction_id"] for row in shop.rows()] == ["auction-1", "auction-3"]
    assert [row["auction_id"] for row in shop.rows("notices")] == ["auction-1", "auction-5"]
    assert len((await shop.log.read(Topic.DEAD_LETTERS, {}, 10)).records) == 4
    await job.close()


async def test_counts_of_bids_are_no_rows_and_nothing_to_complain_of(shop: Shop) -> None:
    counts = [Entry("bidder", encode(bids_sent(number, 5))) for number in range(1, 4)]
    await shop.log.append(Topic.NOTICES, [counts[0], notice(1), counts[1]])
    job = shop.job()
    await job.open()
    await shop.work(job)
    await shop.log.append(Topic.NOTICES, counts[2:])
    await shop.work(job)
    assert [row["auction_id"] for row in shop.rows("notices")] == ["auction-1"]
    assert (await shop.log.read(Topic.DEAD_LETTERS, {}, 10)).records == []
    assert await shop.log.lag(Topic.NOTICES, await shop.log.committed(Topic.NOTICES, GROUP)) == 0
    await job.close()


async def test_rows_hold_what_was_decided_and_told(shop: Shop) -> None:
    await shop.log.append(Topic.DECISIONS, [decision(1, bids=2), decision(2, at_ms=AT_MS + HOUR_MS)])
    await shop.log.append(Topic.NOTICES, [notice(1, cost_micros=1_500, clearing_micros_cpm=1_500_000)])
    await shop.log.append(Topic.NOTICES, [notice(2, NoticeKind.LOSS, loss_reason=102, min_to_win_micros_cpm=7)])
    job = shop.job()
    await job.open()
    await shop.work(job)
    assert [str(path.relative_to(shop.root)) for path in shop.files()] == [
        f"bids/date=2025-06-02/hour=12/0-{BEGIN}-{BEGIN + 1}.parquet",
        f"bids/date=2025-06-02/hour=13/0-{BEGIN}-{BEGIN + 1}.parquet",
    ]
    first = shop.rows()[0]
    assert first == {
        "bid_id": "bid-1-0",
        "auction_id": "auction-1",
        "imp_id": "1",
        "exchange": "exchange",
        "at_ms": AT_MS,
        "advertiser_id": 1,
        "campaign_id": 2,
        "line_item_id": 3,
        "creative_id": 4,
        "price_micros_cpm": 2_000_000,
        "cost_micros_max": 2_000,
        "value_micros_cpm": 3_000_000,
        "floor_micros_cpm": 500_000,
        "first_price": True,
        "deal_id": "",
        "jitter": 1.0,
        "propensity": 1.0,
        "expires_at_ms": BID_FACTS.expires_at_ms,
        "pacing_multiplier": 0.7,
        "pctr": 0.01,
        "pcvr": 0.001,
        "request_features": b"\x02" * 24,
        "ad_features": b"\x01" * 16,
        "feature_hash": "abc",
        "model_version": "prior",
        "snapshot_version": "s",
        "challenger_pctr": None,
        "challenger_version": "",
    }
    assert [row["bid_id"] for row in shop.rows()] == ["bid-1-0", "bid-1-1", "bid-2-0"]
    told = {row["kind"]: row for row in shop.rows("notices")}
    assert (told["bill"]["cost_micros"], told["bill"]["clearing_micros_cpm"]) == (1_500, 1_500_000)
    assert told["bill"]["loss_reason"] is None
    assert (told["loss"]["loss_reason"], told["loss"]["min_to_win_micros_cpm"]) == (102, 7)
    await job.close()


async def test_it_waits_for_count_or_age(shop: Shop) -> None:
    job = shop.job(training_flush_records=5, training_flush_ms=60_000)
    await job.open()
    await shop.log.append(Topic.DECISIONS, [decision(number) for number in range(4)])
    await shop.work(job, 2)
    assert shop.files() == []
    await shop.log.append(Topic.DECISIONS, [decision(4)])
    await shop.work(job, 1)
    assert len(shop.rows()) == 5
    await shop.log.append(Topic.DECISIONS, [decision(5)])
    await shop.work(job, 1)
    assert len(shop.rows()) == 5
    shop.clock.advance(60_000)
    await shop.work(job, 1)
    assert len(shop.rows()) == 6
    await job.close()


async def test_a_stop_writes_what_was_read(shop: Shop) -> None:
    job = shop.job(training_flush_ms=60_000)
    await job.open()
    await shop.log.append(Topic.DECISIONS, [decision(1)])
    await job.step()
    assert shop.files() == []
    await job.close()
    assert len(shop.rows()) == 1


async def test_poison_is_parked_and_nothing_else(shop: Shop) -> None:
    entries = [decision(1), Entry("x", b"\xc1 rubbish"), notice(7), Entry("x", b""), decision(2)]
    await shop.log.append(Topic.DECISIONS, entries)
    await shop.log.append(Topic.DECISIONS, [Entry("x", b"rubbish alone")])
    job = shop.job()
    await job.open()
    await shop.work(job)
    assert [row["auction_id"] for row in shop.rows()] == ["auction-1", "auction-2"]
    assert await shop.log.lag(Topic.DECISIONS, await shop.log.committed(Topic.DECISIONS, GROUP)) == 0
    parked = (await shop.log.read(Topic.DEAD_LETTERS, {}, 100)).records
    assert [record.key for record in parked] == [f"decisions/0/{BEGIN + index}" for index in (1, 2, 3, 5)]
    await job.close()


@pytest.mark.parametrize("dies_at", ["first file", "commit", "after commit"])
async def test_a_death_at_any_moment_of_a_flush_writes_nothing_twice(
    shop: Shop, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of one flush and the commit are separate acts; between any two of them a worker may die."""
    job = shop.job()
    await job.open()
    await shop.log.append(Topic.DECISIONS, [decision(0)])
    await shop.work(job)
    await shop.log.append(Topic.DECISIONS, [decision(number, AT_MS + number * HOUR_MS) for number in (1, 2, 3)])
    with monkeypatch.context() as broken:
        if dies_at == "first file":
            replace, calls = Path.replace, iter(range(99))

            def once(path: Path, target: Path) -> Path:
                if next(calls) > 0:
                    raise OSError("no space left")
                return replace(path, target)

            broken.setattr(Path, "replace", once)
        elif dies_at == "commit":

            async def refuse(*_: object) -> None:
                raise UnavailableError("away")

            broken.setattr(shop.log, "commit", refuse)
        else:
            broken.setattr(shop.log, "lag", refuse_lag)
        with pytest.raises((OSError, UnavailableError)):
            await shop.work(job)
    os.close(job._lock)  # type: ignore[arg-type]  # what the death of its process would do
    await shop.log.append(Topic.DECISIONS, [decision(4)])  # so that the next batch is not the one that died
    again = shop.job()
    await again.open()
    await shop.work(again)
    assert sorted(row["auction_id"] for row in shop.rows()) == [f"auction-{number}" for number in range(5)]
    assert not list(shop.root.rglob("*.draft"))
    await again.close()


async def refuse_lag(*_: object) -> int:
    raise UnavailableError("away")


async def test_a_failed_flush_is_repeated_by_the_same_worker(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    job = shop.job()
    await job.open()
    await shop.log.append(Topic.DECISIONS, [decision(1)])
    with monkeypatch.context() as broken:

        async def refuse(*_: object) -> None:
            raise UnavailableError("away")

        broken.setattr(shop.log, "commit", refuse)
        with pytest.raises(UnavailableError):
            await shop.work(job)
    await shop.log.append(Topic.DECISIONS, [decision(2)])
    await shop.work(job)
    assert sorted(row["auction_id"] for row in shop.rows()) == ["auction-1", "auction-2"]
    await job.close()


async def test_a_replaced_event_log_does_not_cost_the_files_of_the_old_one(shop: Shop, tmp_path: Path) -> None:
    await shop.log.append(Topic.DECISIONS, [decision(1)])
    job = shop.job()
    await job.open()
    await shop.work(job)
    await job.close()
    shop.log = LocalEventLog(tmp_path / "other", shop.clock)
    again = shop.job()
    await again.open()
    await shop.log.append(Topic.DECISIONS, [decision(2)])
    await shop.work(again)
    assert [row["auction_id"] for row in shop.rows()] == ["auction-2"]
    aside = list(shop.root.rglob("*.aside"))
    assert [row["auction_id"] for path in aside for row in pq.ParquetFile(path).read().to_pylist()] == ["auction-1"]
    await again.close()


async def test_two_writers_are_one_too_many(shop: Shop) -> None:
    job = shop.job()
    await job.open()
    with pytest.raises(UnavailableError, match="being written by another process"):
        await shop.job().open()
    await job.close()
    after = shop.job()
    await after.open()
    await after.close()


async def test_a_clock_set_back_delays_no_file(shop: Shop) -> None:
    job = shop.job()
    await job.open()
    await shop.log.append(Topic.DECISIONS, [decision(1)])
    await job.step()
    shop.clock.step(-24 * HOUR_MS)
    shop.clock.advance(1_000)
    await job.step()
    assert len(shop.files()) == 1
    await job.close()


async def test_the_log_is_trimmed_of_what_all_have_read_and_is_old(shop: Shop) -> None:
    job = shop.job(retention_hours=1.0, trim_every_seconds=1.0)
    await job.open()
    topics = (Topic.DECISIONS, Topic.NOTICES, Topic.REQUESTS)
    for topic in topics:
        make = decision if topic is Topic.DECISIONS else notice
        await shop.log.append(topic, [make(number) for number in range(10)])
    shop.ledger = {0: BEGIN + 5}  # five are read
    await shop.work(job)
    assert [await shop.log.lag(topic, {}) for topic in topics] == [10, 10, 10]  # all young
    shop.clock.advance(2 * HOUR_MS)
    await shop.log.append(Topic.REQUESTS, [notice(11)])
    await shop.work(job)
    lags = {topic: await shop.log.lag(topic, {}) for topic in topics}
    assert lags == {Topic.DECISIONS: 0, Topic.NOTICES: 5, Topic.REQUESTS: 1}
    shop.ledger = {}  # a consumer that has not begun holds everything
    await shop.work(job)
    assert await shop.log.lag(Topic.NOTICES, {}) == 5
    await job.close()


@pytest.mark.platform
async def test_a_worker_killed_again_and_again_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Real processes, real SIGKILL, at moments drawn from a seed, while decisions keep coming."""
    upgrade(f"sqlite:///{tmp_path / 'dsp.db'}")
    shop = Shop(tmp_path)
    shop.log = LocalEventLog(tmp_path / "log", SystemClock())
    await shop.log.open()
    environment = os.environ | {
        "DSP_PLATFORM_DATA_DIR": str(tmp_path),
        "DSP_WORKERS_TRAINING_FLUSH_MS": "8",
        "DSP_WORKERS_BATCH_RECORDS": "37",
    }
    draw = random.Random(5)
    total = 0

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", "dsp", "worker", "training_log"], env=environment)

    for _ in range(3):
        worker = start()
        files = len(shop.files())
        while len(shop.files()) < files + 3:  # it is at work
            assert worker.poll() is None
            await shop.log.append(Topic.DECISIONS, [decision(total + index) for index in range(40)])
            total += 40
        await asyncio.sleep(draw.random() * 0.03)  # a random moment of its work
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    worker = start()
    try:
        async with asyncio.timeout(90):
            while await shop.log.lag(Topic.DECISIONS, await shop.log.committed(Topic.DECISIONS, GROUP)):
                await asyncio.sleep(0.05)
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
    ids = sorted(int(row["auction_id"].removeprefix("auction-")) for row in shop.rows())
    assert ids == list(range(total))
    await shop.log.close()
