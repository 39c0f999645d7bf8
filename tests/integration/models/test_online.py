"""The online learner on a real event log: killed at any moment it neither loses nor counts twice, and the bidder serves
what it publishes.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsp.cache.local import LocalBlobStore
from dsp.events.schema import Decision, NoticeKind, encode
from dsp.events.topics import Topic
from dsp.kernel.clock import ManualClock, SystemClock
from dsp.kernel.errors import UnavailableError
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from models.serving import online as serving
from models.serving.predictor import predict
from models.serving.prior import ConstantPredictor, OnlinePredictor
from models.training.config import TrainingConfig
from models.training.learner import Learner
from models.training.online import SAVE_MS, SETTLE_MS, STATE, OnlineJob
from models.training.pending import Target
from tests.integration.bidder import world as places
from tests.online import DESKTOP, PHONE, ad, decision, notice, request, traffic
from tests.waiting import until

BEGIN_MS = 1_750_000_000_000
CONFIG = TrainingConfig(maturity_seconds=2.0, online_publish_seconds=5.0)


class Shop:
    """An event log whose clock is ours, and jobs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock(BEGIN_MS)
        self.log = LocalEventLog(path / "log", self.clock)
        self.blobs = LocalBlobStore(path / "blobs")

    def job(self, config: TrainingConfig = CONFIG) -> OnlineJob:
        log = LocalEventLog(self.path / "log", self.clock)
        return OnlineJob(log, self.blobs, self.path / "models" / "online", self.clock, config)

    async def play(self, count: int, jobs: list[OnlineJob], seed: int = 1, kill_every: int = 0) -> None:
        """Append traffic second by second; the last job steps. It is replaced every so often, as if it had died."""
        events = list(traffic(count, self.clock.now_ms(), seed))
        second = 0
        while events:
            second += 1
            self.clock.advance(1_000)
            now_ms = self.clock.now_ms()
            for topic, kind in ((Topic.DECISIONS, Decision), (Topic.NOTICES, object)):
                ready = [
                    one.event
                    for one in events
                    if one.at_ms < now_ms and isinstance(one.event, Decision) is (kind is Decision)
                ]
                await self.log.append(topic, [Entry("k", encode(event)) for event in ready]) if ready else None
            events = [one for one in events if one.at_ms >= now_ms]
            if kill_every and second % kill_every == 0:
                await die(jobs[-1])
                jobs.append(self.job())
                await jobs[-1].open()
            await steps(jobs[-1])


async def steps(job: OnlineJob) -> None:
    while await job.step():
        pass


async def die(job: OnlineJob) -> None:
    """End a job as a kill would: what is in memory is lost, the lock goes with the process."""
    assert job._lock is not None
    os.close(job._lock)
    job._lock = None


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    await made.log.open()
    return made


def same(one: Learner, other: Learner) -> None:
    for target in Target:
        assert np.allclose(one.models[target].sums, other.models[target].sums, atol=1e-9)
        assert np.allclose(one.models[target].squares, other.models[target].squares, atol=1e-9)


async def test_what_is_learned_from_the_log_is_published(shop: Shop) -> None:
    jobs = [shop.job()]
    await jobs[0].open()
    await shop.play(3_000, jobs)
    counts = jobs[0].learner.pending.counts
    assert counts.learned == 3_000
    assert counts.unmatched == counts.forgotten == 0
    found = await shop.blobs.get(serving.PRIOR_BLOB)
    assert found is not None
    prior = serving.load(found[1])
    assert BEGIN_MS + 150_000 < prior.learned_to_ms <= shop.clock.now_ms() - SETTLE_MS
    predictor = OnlinePredictor(prior.version, prior.ctr, prior.cvr, ConstantPredictor())
    phone, desktop = (predict(predictor, request(device), ad()[np.newaxis]).pctr[0] for device in (PHONE, DESKTOP))
    assert phone > 0.15
    assert desktop < 0.05
    await jobs[0].close()


@pytest.mark.parametrize("seconds", [7, 61])
async def test_a_learner_killed_again_and_again_knows_what_one_that_lived_knows(tmp_path: Path, seconds: int) -> None:
    lived, killed = Shop(tmp_path / "lived"), Shop(tmp_path / "killed")
    learners = []
    for shop, kill_every in ((lived, 0), (killed, seconds)):
        await shop.log.open()
        jobs = [shop.job()]
        await jobs[0].open()
        await shop.play(3_000, jobs, kill_every=kill_every)
        for _ in range(30):  # quiet: what is still open falls due
            shop.clock.advance(10_000)
            await steps(jobs[-1])
        learners.append(jobs[-1].learner)
        await jobs[-1].close()
    assert (lived.path / "models" / "online" / STATE).exists()
    same(*learners)


async def test_a_broken_state_is_learned_anew_from_what_the_log_keeps(shop: Shop) -> None:
    jobs = [shop.job()]
    await jobs[0].open()
    await shop.play(1_000, jobs)
    await jobs[0].close()
    state = shop.path / "models" / "online" / STATE
    state.write_bytes(state.read_bytes()[:-5])
    again = shop.job()
    await again.open()
    await steps(again)
    same(jobs[0].learner, again.learner)
    await again.close()


async def test_two_learners_of_one_state_are_refused(shop: Shop) -> None:
    first = shop.job()
    await first.open()
    with pytest.raises(UnavailableError):
        await shop.job().open()
    await first.close()


async def test_a_backlog_is_read_in_step_and_within_bounds(shop: Shop) -> None:
    """Notices are far ahead of decisions: they are not all taken in before the decisions they belong to."""
    config = TrainingConfig(maturity_seconds=2.0, online_pending_max=1_500)
    for number in range(10_000):
        at_ms = shop.clock.now_ms()
        await shop.log.append(Topic.DECISIONS, [Entry("k", encode(decision(str(number), at_ms, PHONE)))])
        bill = notice(str(number), NoticeKind.BILL, at_ms)
        await shop.log.append(Topic.NOTICES, [Entry("k", encode(bill)), Entry("k", encode(bill))])
        shop.clock.advance(20)
    shop.clock.advance(60_000)
    job = shop.job(config)
    await job.open()
    most = 0
    while await job.step():
        most = max(most, len(job.learner.pending))
    assert most <= 2 * 1_500 + 150
    assert job.learner.pending.counts.learned > 9_000
    await job.close()


async def test_it_publishes_on_time_when_the_clock_is_set_back(shop: Shop) -> None:
    job = shop.job()
    await job.open()
    await shop.play(300, [job])
    before = await shop.blobs.get(serving.PRIOR_BLOB)
    shop.clock.step(-86_400_000)
    await shop.play(300, [job], seed=2)
    after = await shop.blobs.get(serving.PRIOR_BLOB)
    assert before is not None
    assert after is not None
    assert after[0] != before[0]
    await job.close()


async def test_saving_does_not_wait_for_publishing(shop: Shop) -> None:
    class Away(LocalBlobStore):
        async def put(self, name: str, data: bytes) -> None:
            raise UnavailableError("away")

    shop.blobs = Away(shop.path / "nowhere")
    job = shop.job()
    await job.open()
    for one in traffic(100, BEGIN_MS):
        topic = Topic.DECISIONS if isinstance(one.event, Decision) else Topic.NOTICES
        await shop.log.append(topic, [Entry("k", encode(one.event))])
    shop.clock.advance(SAVE_MS + 1_000)
    await job.step()  # reads; the quiet log's clock is looked at by the next one
    shop.clock.advance(6_000)
    with pytest.raises(UnavailableError):
        await job.step()
    assert (shop.path / "models" / "online" / STATE).exists()
    await job.close()


@pytest.mark.platform
async def test_a_bidder_follows_a_learner_that_is_killed(tmp_path: Path) -> None:
    async with places.world(tmp_path, DSP_BIDDER_RELOAD_INTERVAL_MS="50") as bidder:
        await bidder.publish(places.catalogue())
        await bidder.start()
        await bidder.offer("before")
        settings = {"DSP_TRAINING_MATURITY_SECONDS": "1", "DSP_TRAINING_ONLINE_PUBLISH_SECONDS": "0.5"}
        log = LocalEventLog(bidder.data / "log", SystemClock())
        await log.open()
        for one in traffic(3_000, 0):
            topic = Topic.DECISIONS if isinstance(one.event, Decision) else Topic.NOTICES
            await log.append(topic, [Entry("k", encode(one.event))])
        await log.close()

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "models", "online"], cwd=places.ROOT, env={**bidder.environment, **settings},
                stderr=subprocess.DEVNULL,
            )  # fmt: skip

        learner = start()
        try:
            await until(lambda: bidder.metric("dsp_prior_swaps_total", result="loaded"), 40.0)
            await until(lambda: bidder.metric("dsp_model_info", version="online"))
            learner.send_signal(signal.SIGKILL)
            learner.wait()
            await bidder.offer("after")
            (bidder.data / "blobs" / serving.PRIOR_BLOB).write_bytes(b"rubbish")
            await until(lambda: bidder.metric("dsp_prior_swaps_total", result="failed"))
            await bidder.offer("kept")
            learner = start()
            await asyncio.sleep(0)
            await until(lambda: _swaps(bidder, 2), 40.0)
            assert 0 < await bidder.metric("dsp_prior_age_seconds") < 120
        finally:
            learner.terminate()
            learner.wait()
        await bidder.stop()
        decisions = {one.auction_id: one for one in await bidder.events("decisions", Decision)}
    assert decisions["before"].model_version == "prior"
    assert decisions["after"].model_version.startswith("online/")
    assert decisions["kept"].model_version.startswith("online/")
    assert decisions["before"].bids[0].pctr != decisions["after"].bids[0].pctr


async def _swaps(bidder: places.World, count: int) -> bool:
    return await bidder.metric("dsp_prior_swaps_total", result="loaded") >= count
