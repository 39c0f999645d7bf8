"""Shadow scoring: after the answer, beside what was bid, and without any way to disturb it."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bidder.journal import Journal
from dsp.events.schema import Decision, decode
from dsp.events.topics import Topic
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving.predictor import Predictions
from tests.integration.bidder.world import bid_request
from tests.unit.bidder.markets import Market


class Kept:
    """An outbox that keeps what it is offered."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def offer(self, topic: Topic, key: str, encode: Callable[[], bytes]) -> bool:
        event = decode(encode())
        if isinstance(event, Decision):
            assert key == event.auction_id
            self.decisions.append(event)
        return True


class Challenger:
    version = "challenger"

    def __init__(self, rate: float = 0.125, fault: Exception | None = None, rows: int | None = None) -> None:
        self.rate, self.fault, self.rows = rate, fault, rows
        self.shapes: list[tuple[int, ...]] = []

    def prepare(self, ads: Any) -> Any:
        raise AssertionError("it scores whole rows")

    def predict_rows(self, requests: Any, ads: Any) -> Predictions:
        self.shapes += [requests.shape, ads.shape]
        if self.fault is not None:
            raise self.fault
        rates = np.full(len(ads) if self.rows is None else self.rows, self.rate)
        return Predictions(rates, rates)


def market(challenger: Challenger | None, share: float = 1.0) -> tuple[Market, Kept]:
    made, kept = Market(), Kept()
    journal: Any = Journal(kept, b"k", 0.0, share)  # type: ignore[arg-type]
    made.auctioneer = dataclasses.replace(made.auctioneer, journal=journal)
    made.serving.swap(dataclasses.replace(made.state, challenger=challenger))
    return made, kept


async def test_it_scores_once_the_answer_has_left() -> None:
    challenger = Challenger()
    made, kept = market(challenger)
    answer, _ = await made.ask(bid_request("a"))
    assert answer.status == 200
    assert not kept.decisions
    assert not challenger.shapes
    await asyncio.sleep(0)
    (decision,) = kept.decisions
    assert decision.challenger_version == "challenger"
    assert [bid.challenger_pctr for bid in decision.bids] == [0.125]
    assert decision.bids[0].pctr != 0.125
    assert decision.model_version == "prior"
    assert challenger.shapes == [(1, len(REQUEST_COLUMNS)), (1, len(AD_COLUMNS))]


@pytest.mark.parametrize("challenger", [Challenger(fault=RuntimeError("no")), Challenger(rows=7), Challenger(rows=0)])
async def test_its_faults_leave_the_bid_and_its_record(challenger: Challenger) -> None:
    (undisturbed, before), (made, kept) = market(None), market(challenger)
    first, _ = await undisturbed.ask(bid_request("a"))
    answer, _ = await made.ask(bid_request("a"))
    await asyncio.sleep(0)
    assert answer.status == first.status == 200
    (expected,), (decision,) = before.decisions, kept.decisions
    assert decision.challenger_version == ""
    assert [bid.challenger_pctr for bid in decision.bids] == [None]
    assert [bid.pctr for bid in decision.bids] == [bid.pctr for bid in expected.bids]


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.2, 20, 60), (1.0, 200, 200)])
async def test_a_share_of_auctions_is_scored_and_all_are_recorded(share: float, least: int, most: int) -> None:
    made, kept = market(Challenger(), share)
    for number in range(200):
        answer, _ = await made.ask(bid_request(f"auction-{number}"))
        assert answer.status == 200
        await asyncio.sleep(0)
    assert len(kept.decisions) == 200
    assert least <= sum(decision.challenger_version != "" for decision in kept.decisions) <= most


async def test_without_a_challenger_nothing_waits() -> None:
    made, kept = market(None)
    await made.ask(bid_request("a"))
    assert len(kept.decisions) == 1
