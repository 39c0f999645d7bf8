"""The auction with every part passed in: deals, budgets, deadlines, fall-backs, and money given back."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from bidder.auction import Answer
from bidder.config import BidderConfig
from bidder.respond import Responder
from dsp.events.schema import NoticeKind, SampledRequest, decode
from dsp.events.topics import Topic
from dsp.kernel.clock import ManualClock
from dsp.kernel.ids import TokenSigner
from dsp.openrtb.profile import Profile
from dsp.pacing.columns import align, paced
from dsp.pacing.controller import Control, Controls
from dsp.pacing.dual import concave_bid
from dsp.pricing.explore import FACTORS
from dsp.pricing.landscape import WinCurve
from models.serving.landscape import Landscapes
from models.serving.predictor import Asked, Predictions
from tests.integration.bidder.world import bid_request
from tests.unit.bidder.markets import Heard, Market


class SlowModel:
    """A scorer that takes its time."""

    version = "slow"
    device = "cpu"

    def __init__(self, clock: ManualClock, ms: int) -> None:
        self._clock = clock
        self._ms = ms
        self.calls = 0

    def predict(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Predictions:
        self.calls += 1
        self._clock.advance(self._ms)
        return Predictions(np.full(len(chosen), 0.01), np.full(len(chosen), 0.05))

    def predict_all(self, asked: Sequence[Asked]) -> list[Predictions]:
        return [self.predict(*one) for one in asked]


class BrokenModel:
    version = "broken"
    device = "cpu"

    def predict_all(self, asked: Sequence[Asked]) -> list[Predictions]:
        raise RuntimeError("no")


async def test_it_bids_and_reserves_the_cost_of_its_price() -> None:
    market = Market()
    answer, (bid,) = await market.ask(bid_request("a"))
    assert (answer.status, bid["price"]) == (200, 4.25)  # 5.00 shaded by 0.85
    assert json.loads(answer.body)["bidid"] == bid["id"]
    assert market.leases.reserved_micros == 4_250
    assert market.outbox.depth(Topic.DECISIONS) == 1
    assert market.auctioneer.admission.inflight == 0


class OnePrice(Landscapes):
    """Knows of every impression that 3.00 wins four times in five, and 1.00 one time in five."""

    def __init__(self) -> None:
        super().__init__("one", {})

    def curve(self, features: NDArray[np.int64], floor_micros_cpm: int) -> WinCurve | None:
        return WinCurve.of(np.array([1_000_000.0, 3_000_000.0]), np.array([0.2, 0.8]))


async def test_a_landscape_prices_first_price_auctions_and_no_others() -> None:
    market = Market()
    market.serving.swap(dataclasses.replace(market.state, landscapes=OnePrice()))
    _, (bid,) = await market.ask(bid_request("a"))
    assert bid["price"] == 3.0  # (5 - 3) x 0.8 is more than (5 - 1) x 0.2
    _, (bid,) = await market.ask({**bid_request("b"), "at": 2})
    assert bid["price"] == 5.0


async def test_explored_prices_are_logged_with_their_propensity() -> None:
    market = Market()
    heard, config = Heard(market.outbox), BidderConfig(first_price_explore_share=0.5)
    market.auctioneer = dataclasses.replace(market.auctioneer, config=config, journal=heard)
    await market.ask({**bid_request("second"), "at": 2})
    assert [(bid.jitter, bid.propensity) for bid in heard.bids] == [(1.0, 1.0)]
    heard.bids.clear()
    for number in range(40):
        await market.ask(bid_request(f"a{number}"))
    assert 10 < sum(bid.jitter != 1.0 for bid in heard.bids) < 30
    for bid in heard.bids:
        assert bid.propensity == (0.5 if bid.jitter == 1.0 else 0.5 / len(FACTORS))
        assert bid.facts.price_micros_cpm == min(5_000_000, round(4_250_000 * bid.jitter))


async def test_money_that_is_not_there_is_not_bid() -> None:
    market = Market(money=10_000)
    answers = [await market.ask(bid_request(f"a{number}")) for number in range(4)]
    assert [answer.status for answer, _ in answers] == [200, 200, 200, 204]
    assert [bid["price"] for _, bids in answers for bid in bids] == [4.25, 4.25, 1.5]  # the last cut to what was left
    assert market.leases.reserved_micros == 10_000


async def test_what_is_left_is_not_bid_where_it_is_below_the_floor() -> None:
    market = Market(money=10_000)
    request = bid_request("a")
    request["imp"][0]["bidfloor"] = 1.6
    statuses = [(await market.ask({**request, "id": f"a{number}"}))[0].status for number in range(3)]
    assert statuses == [200, 200, 204]


async def test_a_bid_is_cut_to_what_is_left_of_the_day() -> None:
    market = Market()
    now_ms = market.clock.now_ms()
    left = Controls(at_ms=now_ms, line_items={number: Control(left_micros=2_000) for number in (10, 11, 12)})
    controls = align(paced(left), market.state.served.snapshot.line_item_ids)
    market.serving.swap(dataclasses.replace(market.state, controls=controls))
    _, (bid,) = await market.ask(bid_request("a"))
    assert bid["price"] == pytest.approx(0.85 * concave_bid(5.0, 1.0, 2.0), abs=0.01)


async def test_below_the_floor_pacing_throws_a_lot() -> None:
    market = Market()
    market.pace(0.5)
    answers = [await market.ask(dear_request(f"a{number}")) for number in range(200)]
    prices = [bid["price"] for _, bids in answers for bid in bids]
    assert 60 < len(prices) < 140  # (2.5 / 3) ** 4 = 0.48
    assert min(prices) >= 3.0
    assert max(prices) < 3.04


def dear_request(auction_id: str) -> dict[str, Any]:
    """Return a request whose floor is above the 2.50 that pacing leaves of 5.00."""
    request = bid_request(auction_id)
    request["imp"][0]["bidfloor"] = 3.0
    return request


async def test_an_exchange_cannot_choose_ids_that_pacing_lets_pass() -> None:
    """It may run this code itself, but for the secret, and send again what has passed once."""
    theirs, ours = Market(key=b"no more than a guess"), Market()
    theirs.pace(0.5)
    ours.pace(0.5)
    chosen = [one for one in (f"a{number}" for number in range(400)) if (await theirs.ask(dear_request(one)))[1]]
    assert 140 < len(chosen) < 250
    passed = [one for one in chosen if (await ours.ask(dear_request(one)))[1]]
    assert 0.35 < len(passed) / len(chosen) < 0.61
    ours.clock.advance(1)
    again = [one for one in passed if (await ours.ask(dear_request(one)))[1]]
    assert 0.3 < len(again) / len(passed) < 0.66


async def test_an_exchange_cannot_choose_ids_that_draw_a_creative() -> None:
    theirs, ours = Market(alike=True, key=b"no more than a guess"), Market(alike=True)

    async def drawn(market: Market, auction_id: str) -> str:
        _, (bid,) = await market.ask(bid_request(auction_id))
        return str(bid["adid"])

    wanted = await drawn(theirs, "a")
    chosen = [one for one in (f"a{number}" for number in range(200)) if await drawn(theirs, one) == wanted]
    assert 60 < len(chosen) < 140
    found = [one for one in chosen if await drawn(ours, one) == wanted]
    assert 0.3 < len(found) / len(chosen) < 0.7


async def test_a_deal_bid_goes_before_a_higher_open_bid() -> None:
    market = Market(deal=True)
    request = bid_request("a")
    _, (bid,) = await market.ask(request)
    assert "dealid" not in bid
    request["imp"][0]["pmp"] = {"deals": [{"id": "d1", "bidfloor": 0.5, "at": 1}]}
    _, (bid,) = await market.ask(request)
    assert (bid["dealid"], bid["price"] <= 2.0) == ("d1", True)


async def test_a_late_answer_is_a_no_and_gives_the_money_back() -> None:
    market = Market()
    model = SlowModel(market.clock, 200)
    market.model(model)
    answer, _ = await market.ask(bid_request("a", tmax=150, user={"id": "u"}))
    assert (answer.status, model.calls) == (204, 1)
    assert market.leases.reserved_micros == 0
    assert len(market.pending) == 0
    assert market.outbox.depth(Topic.DECISIONS) == 0


async def test_too_little_time_is_a_no_before_any_work() -> None:
    market = Market()
    model = SlowModel(market.clock, 0)
    market.model(model)
    assert (await market.ask(bid_request("a", tmax=20)))[0] == Answer(204)
    assert model.calls == 0


async def test_the_prior_scores_when_time_runs_short() -> None:
    market = Market()
    model = SlowModel(market.clock, 100)
    market.model(model)
    # Margins leave 101 ms of tmax for work; the model takes 100 for the first impression.
    request = bid_request("a", tmax=126)
    request["imp"].append({**request["imp"][0], "id": "2"})
    _, bids = await market.ask(request)
    assert model.calls == 1
    assert [bid["impid"] for bid in bids] == ["1", "2"]


async def test_a_fault_inside_is_a_no_and_gives_the_money_back() -> None:
    market = Market()
    market.model(BrokenModel())
    assert (await market.ask(bid_request("a")))[0] == Answer(204)
    assert market.leases.reserved_micros == 0
    assert market.auctioneer.admission.inflight == 0


async def test_a_bid_that_our_check_drops_gives_the_money_back() -> None:
    market = Market()
    object.__setattr__(
        market.auctioneer, "responder", Responder("http://n.example", TokenSigner([b"k" * 16], NoticeKind), {})
    )
    request = bid_request("a")
    request["imp"][0]["secure"] = 1  # and our pixel is not
    with capture_logs() as logs:
        for _ in range(2):
            assert (await market.ask(request))[0] == Answer(204)
    assert market.leases.reserved_micros == 0
    [line] = logs
    assert (line["event"], line["check"], line["creative_id"]) == ("bid withheld", "secure", 100)


@pytest.mark.parametrize("coppa", [0, 1])
async def test_a_sample_keeps_nothing_of_a_user_of_whom_nothing_may_be_kept(coppa: int) -> None:
    market = Market()
    await market.outbox.start()
    request = bid_request("s1", regs={"coppa": coppa})
    await market.ask(request)
    await market.outbox.stop(1.0)
    [entry] = market.log.appended[Topic.REQUESTS.value]
    sampled = decode(entry.value)
    assert isinstance(sampled, SampledRequest)
    assert (b"203.0.113.0" in sampled.body) == (b'"u1"' in sampled.body) == (coppa == 0)
    assert sampled.outcome == "bid"
    assert coppa == 1 or json.loads(sampled.body) == request


async def test_no_user_store_still_bids() -> None:
    market = Market()
    market.users.away = True
    assert (await market.ask(bid_request("a", user={"id": "u"})))[0].status == 200


@pytest.mark.parametrize("tmax", [0, -1, None])
async def test_without_tmax_the_profile_decides(tmax: int | None) -> None:
    market = Market()
    assert (await market.ask(bid_request("a", tmax=tmax)))[0].status == 200


async def test_money_is_set_aside_for_as_long_as_the_impression_may_take_and_the_bid_says_so() -> None:
    profile = Profile(name="x", auction_default=1, notice_ttl_seconds=300, notice_ttl_seconds_max=7_200)
    market = Market(profile)
    heard = Heard(market.outbox)
    market.auctioneer = dataclasses.replace(market.auctioneer, journal=heard)
    request = bid_request("a")
    waits = (None, 60, 3_600, 14_400)
    request["imp"] = [{**request["imp"][0], "id": str(number), "exp": wait} for number, wait in enumerate(waits)]
    _, bids = await market.ask(request)
    lasting = {bid["impid"]: bid["exp"] for bid in bids}
    assert lasting == {"0": 300, "1": 300, "2": 3_600, "3": 7_200}
    for bid in heard.bids:
        assert bid.facts.expires_at_ms - bid.facts.bid_at_ms == 1_000 * lasting[bid.facts.imp_id]


@pytest.mark.parametrize(("pods", "won"), [("ppq", "13"), ("p", "1"), ("", "123")])
async def test_an_advertiser_bids_once_for_a_pod(pods: str, won: str) -> None:
    market = Market()
    request = bid_request("a")
    video = {"mimes": ["video/mp4"], "protocols": [2, 3], "maxduration": 30}
    slots = [{**video, "podid": pods[number] if len(pods) > 1 else pods, "poddedupe": [1]} for number in range(3)]
    request["imp"] = [{"id": str(number), "video": slot} for number, slot in enumerate(slots, 1)]
    _, bids = await market.ask(request)
    assert "".join(bid["impid"] for bid in bids) == won
    assert market.leases.reserved_micros == 4_250 * len(won)


async def test_two_impressions_of_one_request_count_for_one_user() -> None:
    market = Market()
    request = bid_request("a", user={"id": "u"})
    request["imp"].append({**request["imp"][0], "id": "2"})
    _, bids = await market.ask(request)
    assert len(bids) == 2
    assert len(market.pending) == 2
    assert market.leases.reserved_micros == 8_500
