"""Before another predictor is served from, pacing is told what it makes of the impressions that were scored last."""

import asyncio
from collections.abc import Awaitable, Callable
from math import log
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from bidder.reload import REVALUED_SECONDS_MAX, Reloader
from bidder.revaluation import RECENT_MAX, Scored, revalued
from bidder.state import Served, Serving, ServingState, serve
from dsp.cache.local import LocalBlobStore
from dsp.catalog.entities import Catalogue
from dsp.catalog.terms import Goal, GoalKind
from dsp.kernel.clock import ManualClock
from dsp.pacing import columns
from dsp.pacing.columns import PACED_BLOB, paced
from dsp.pacing.controller import Control, Controls
from dsp.pacing.revaluation import REVALUED_BLOB, Revalued, decode
from dsp.snapshot import codec
from dsp.snapshot.build import build
from dsp.snapshot.codec import SNAPSHOT_BLOB
from loadtest.day import loop as simulated
from models.features.columns import REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving import online
from models.serving.linear import Coordinates, LinearModel
from models.serving.online import PRIOR_BLOB
from models.serving.predictor import Predictions, RateTable, Scorer
from tests.contract.test_prior_blob import golden
from tests.integration.bidder.world import bid_request, catalogue
from tests.unit.bidder.markets import Market

REQUEST = np.zeros(len(REQUEST_COLUMNS), dtype=np.int64)
BITS = 12


def clicks() -> Catalogue:
    """Return line items 10 and 11, of a creative each, that pay for clicks."""
    found, goal = catalogue(), Goal(kind=GoalKind.CPC, target_micros=500_000)
    return replace(found, line_items=tuple(replace(one, goal=goal) for one in found.line_items))


def scorer(version: str, *pctr: float) -> Scorer:
    return Scorer(version, RateTable(np.array(pctr)), RateTable(np.full(len(pctr), 0.05)))


def scored(served: Served, by: Scorer, *creatives: int) -> Scored:
    asked = REQUEST, np.array(creatives)
    return Scored(served.ad_rows, by.version, asked, by.predict(*asked))


@pytest.fixture
def served() -> Served:
    return serve(build(clicks(), "v1", 1), None)


def compare(served: Served, recent: list[Scored], before: Scorer, after: Scorer) -> Revalued:
    return revalued(recent, served.snapshot, served.ad_rows, before.version, after)


def test_each_line_items_values_are_compared_on_the_same_impressions(served: Served) -> None:
    before, after = scorer("a", 0.01, 0.02), scorer("b", 0.05, 0.01)
    found = compare(served, [scored(served, before, 0, 1)] * 500, before, after)
    assert (found.before, found.after) == ("a", "b")
    assert found.log_ratios == {10: pytest.approx(log(5), rel=0.02), 11: pytest.approx(-log(2), rel=0.02)}


def test_little_evidence_moves_little_and_none_nothing(served: Served) -> None:
    before, after = scorer("a", 0.01, 0.01), scorer("b", 0.1, 0.1)
    found = compare(served, [scored(served, before, 0)], before, after)
    assert found.log_ratios == {10: pytest.approx(log(10) / 6)}
    assert compare(served, [], before, after).log_ratios == {}


@pytest.mark.filterwarnings("error")
def test_what_is_no_value_and_what_others_scored_tells_nothing(served: Served) -> None:
    before, after = scorer("a", 0.01, 0.01), scorer("b", 0.1, 0.1)
    other = serve(build(clicks(), "v2", 1), None)
    foreign = [scored(other, before, 0), scored(served, scorer("fallback", 0.5, 0.5), 0)]
    nothing = Predictions(np.array([0.0, np.nan]), np.array([0.05, 0.05]))
    unvalued = Scored(served.ad_rows, "a", (REQUEST, np.array([0, 1])), nothing)
    assert compare(served, [*foreign, unvalued], before, after).log_ratios == {}


def test_what_pays_for_impressions_is_worth_what_it_was() -> None:
    served = serve(build(catalogue(), "v1", 1), None)
    before, after = scorer("a", 0.01, 0.01), scorer("b", 0.1, 0.1)
    found = compare(served, [scored(served, before, 0, 1)] * 9, before, after)
    assert found.log_ratios == {10: 0.0, 11: 0.0}


async def test_auctions_remember_what_they_scored_and_not_for_ever() -> None:
    market = Market()
    for number in range(RECENT_MAX + 9):
        await market.ask(bid_request(f"a{number}"))
    assert len(market.serving.recent) == RECENT_MAX
    assert market.serving.recent[-1].version == "prior"
    assert market.serving.recent[-1].ads is market.state.served.ad_rows


class Bidder:
    """A reloader on a blob store, in simulated time."""

    def __init__(self, path: Path) -> None:
        self.serving, self.blobs = Serving(), LocalBlobStore(path / "blobs")
        self.reloader = Reloader(self.serving, self.blobs, path / "models", 250)

    @property
    def state(self) -> ServingState:
        assert self.serving.current is not None
        return self.serving.current

    async def begin(self, paced_by: bool = True) -> None:
        """Serve the prior, with controls, and score a hundred impressions."""
        await self.publish("v1")
        if paced_by:
            await self.pace(1, 0.5)
        await self.reloader.poll()
        await self.reloader.poll()  # what is published together may be found one after the other
        self.serving.recent.extend([scored(self.state.served, self.state.predictor, 0)] * 100)

    async def publish(self, version: str) -> None:
        await self.blobs.put(SNAPSHOT_BLOB, codec.encode(clicks(), version, 1))

    async def pace(self, at_ms: int, multiplier: float, *passed: str) -> None:
        controls = Controls(at_ms=at_ms, line_items={10: Control(multiplier=multiplier)}, predicted_by=passed)
        await self.blobs.put(PACED_BLOB, columns.encode(paced(controls)))

    async def learn(self, learned_to_ms: int, times: float) -> None:
        """Publish a prior whose click rates are so many times the constants', nearly."""
        model = LinearModel(Coordinates(PLATFORM, BITS), np.zeros(1 << BITS, dtype=np.float32), log(times))
        await self.blobs.put(PRIOR_BLOB, online.pack(learned_to_ms, {"ctr": model}, golden()))

    async def told(self) -> Revalued | None:
        found = await self.blobs.get(REVALUED_BLOB)
        return decode(found[1]) if found is not None else None


def simulate(path: Path, scene: Callable[[Bidder], Awaitable[None]]) -> None:
    async def run() -> None:
        await scene(Bidder(path))

    simulated.run(run(), ManualClock())


def test_another_predictor_begins_with_the_controls_that_are_meant_for_it(tmp_path: Path) -> None:
    async def scene(bidder: Bidder) -> None:
        await bidder.begin()
        await bidder.learn(9, times=4.0)
        await bidder.reloader.poll()
        told = await bidder.told()
        assert told is not None
        assert (told.before, told.after) == ("prior", "online/9")
        assert told.log_ratios == {10: pytest.approx(log(4), rel=0.1)}
        await bidder.pace(2, 0.6)
        await bidder.reloader.poll()
        assert (bidder.state.predictor.version, bidder.state.controls.multiplier[0]) == ("prior", 0.6)
        await bidder.pace(3, 0.15, "online/9")
        await bidder.reloader.poll()
        assert (bidder.state.predictor.version, bidder.state.controls.multiplier[0]) == ("online/9", 0.15)

    simulate(tmp_path, scene)


def test_a_predictor_does_not_wait_for_pacing_for_ever(tmp_path: Path) -> None:
    async def scene(bidder: Bidder) -> None:
        await bidder.begin()
        await bidder.learn(9, times=4.0)
        await bidder.reloader.poll()
        await asyncio.sleep(REVALUED_SECONDS_MAX - 0.5)
        await bidder.reloader.poll()
        assert bidder.state.predictor.version == "prior"
        await asyncio.sleep(1.0)
        await bidder.reloader.poll()
        assert bidder.state.predictor.version == "online/9"
        assert not await bidder.reloader.poll()  # nothing is waited for any more

    simulate(tmp_path, scene)


def test_of_two_predictors_in_a_row_the_later_is_served_from(tmp_path: Path) -> None:
    async def scene(bidder: Bidder) -> None:
        await bidder.begin()
        await bidder.learn(9, times=4.0)
        await bidder.reloader.poll()
        await bidder.learn(12, times=2.0)
        await bidder.reloader.poll()
        told = await bidder.told()
        assert told is not None
        assert (told.before, told.after) == ("prior", "online/12")
        await bidder.pace(3, 0.3, "online/9", "online/12")
        await bidder.reloader.poll()
        assert bidder.state.predictor.version == "online/12"

    simulate(tmp_path, scene)


def test_where_nobody_paces_nobody_waits(tmp_path: Path) -> None:
    async def scene(bidder: Bidder) -> None:
        await bidder.begin(paced_by=False)
        await bidder.learn(9, times=4.0)
        await bidder.reloader.poll()
        assert bidder.state.predictor.version == "online/9"
        assert await bidder.told() is None

    simulate(tmp_path, scene)


def test_another_snapshot_waits_for_no_predictor(tmp_path: Path) -> None:
    """The predictor of before knows nothing of its ads."""

    async def scene(bidder: Bidder) -> None:
        await bidder.begin()
        await bidder.learn(9, times=4.0)
        await bidder.reloader.poll()
        assert bidder.state.predictor.version == "prior"
        await bidder.publish("v2")
        await bidder.reloader.poll_snapshot()
        assert bidder.state.served.snapshot.version == "v2"
        assert bidder.state.predictor.version == "online/9"

    simulate(tmp_path, scene)
