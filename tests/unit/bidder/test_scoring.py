"""The auction with a model that runs for several requests at once: answers, deadlines, faults, caps across the wait."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bidder.run import Arrival, Run
from bidder.scoring import Scoring
from dsp.catalog.entities import MediaFormat
from dsp.kernel.clock import ManualClock
from dsp.openrtb.profile import Profile
from loadtest.day import loop as simulated
from models.serving.batcher import Batcher
from models.serving.predictor import BatchScorer, RateTable
from models.serving.prior import CTR_BY_FORMAT
from tests.integration.bidder.world import bid_request
from tests.unit.bidder import markets
from tests.unit.bidder.markets import CONFIG, Market
from tests.unit.bidder.test_users import _catalogue, bids

MODEL_RATE, WAIT_MS = 0.5, 2.0


class Rates:
    """A click rate of its own, scored in two steps. Alone it must never be asked."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.broken = False

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        raise AssertionError("asked for one impression")

    def stage(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> int:
        return len(chosen)

    def run(self, staged: Sequence[int]) -> list[NDArray[np.float64]]:
        if self.broken:
            raise RuntimeError("no")
        self.runs.append(len(staged))
        return [np.full(rows, MODEL_RATE) for rows in staged]


class SlowDevice:
    """Runs each batch after so many milliseconds."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def put(self, work: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(self.ms / 1_000, work)


class Bench:
    """A market whose model scores in batches, on a device that takes `ms`."""

    def __init__(self, ms: int) -> None:
        self.market = Market()
        self.clock: ManualClock = self.market.clock
        self.rates = Rates()
        self.batcher = Batcher(64, WAIT_MS, 1_024, self.clock, SlowDevice(ms))
        self.market.auctioneer = dataclasses.replace(
            self.market.auctioneer,
            scoring=Scoring(self.batcher, CONFIG.predict_ms_min, self.clock, self.market.serving.recent),
        )
        creatives = len(self.market.state.served.ad_rows)
        self.market.model(BatchScorer("batched", self.rates, RateTable(np.full(creatives, 0.05)), "cuda"))
        self.answered: set[tuple[str, float]] = set()  # by which model, with which click rate
        journal = self.market.auctioneer.journal
        decision = journal.decision

        def heard(run: Run, auction_id: str) -> None:
            self.answered |= {(run.model_version, offer.record.pctr) for offer in run.sent}
            decision(run, auction_id)

        object.__setattr__(journal, "decision", heard)


@pytest.fixture
def capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markets, "catalogue", lambda: _catalogue("line item"))


def test_requests_that_come_together_are_scored_together() -> None:
    bench = Bench(ms=3)

    async def work() -> None:
        assert sum(await asyncio.gather(*(bids(bench.market) for _ in range(5)))) == 5
        assert bench.rates.runs == [5]
        assert bench.answered == {("batched", MODEL_RATE)}

    simulated.run(work(), bench.clock)


@pytest.mark.parametrize("fault", ["slow", "broken"])
def test_the_prior_answers_in_time_for_a_model_that_does_not(fault: str) -> None:
    bench = Bench(ms=500 if fault == "slow" else 3)
    bench.rates.broken = fault == "broken"

    async def work() -> None:
        began = bench.clock.now_ms()
        answer, offered = await bench.market.ask(bid_request("a", tmax=100))
        assert (answer.status, len(offered)) == (200, 1)
        # Of tmax 20 are kept for the network and 5 for ourselves; 2 of the rest are left to price and respond.
        assert bench.clock.now_ms() - began == (73 if fault == "slow" else WAIT_MS + 3)
        assert bench.answered == {("fallback", CTR_BY_FORMAT[MediaFormat.BANNER])}

    simulated.run(work(), bench.clock)


def test_caps_hold_among_requests_that_wait_together(capped: None) -> None:
    bench = Bench(ms=3)

    async def work() -> None:
        assert sum(await asyncio.gather(*(bids(bench.market, user={"id": "u1"}) for _ in range(8)))) == 1

    simulated.run(work(), bench.clock)


def test_it_needs_no_task_and_a_client_that_leaves_costs_nothing() -> None:
    bench = Bench(ms=3)
    answers: list[Any] = []

    async def answer() -> None:
        body = b'{"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}]}'
        answers.append(await bench.market.auctioneer.answer(_arrival(bench.market.profile, body, bench.clock)))

    async def work() -> None:
        bench.market.auctioneer.cohort.start(answer())
        gone = asyncio.ensure_future(answer())
        await asyncio.sleep(0.001)
        gone.cancel()
        await asyncio.sleep(0.010)
        assert [answer.status for answer in answers] == [200]
        assert bench.rates.runs == [1]
        assert bench.market.auctioneer.admission.inflight == 0
        assert bench.market.leases.reserved_micros == 4_250  # of the other

    simulated.run(work(), bench.clock)


def _arrival(profile: Profile, body: bytes, clock: ManualClock) -> Arrival:
    return Arrival(profile, body, "", clock.elapsed_ns())
