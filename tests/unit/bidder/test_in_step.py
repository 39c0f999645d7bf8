"""Auctions of one turn, in step: they decide what each would by itself, and share caps and money."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from bidder.auction import Answer, Auctioneer
from bidder.cohort import COHORT_MAX, Cohort
from bidder.run import Arrival, Run
from dsp.events.schema import Bid
from dsp.kernel.clock import NS_PER_MS, ManualClock
from dsp.kernel.metrics import Stage
from dsp.openrtb.codec import decode_request
from dsp.pacing.columns import align
from dsp.snapshot.build import build
from loadtest.bids import supply
from loadtest.bids.catalogue import Mix, catalogue
from loadtest.bids.model import publish
from loadtest.traffic import Source, Traffic
from models.serving import bundle
from models.serving.predictor import Asked, Predictions, Scorer
from tests.bench.bench_units import NOW_MS, PROFILE, Made, _auctioneer
from tests.integration.bidder.world import bid_request
from tests.unit.bidder import markets, test_users
from tests.unit.bidder.markets import Heard, Market

REQUESTS = 5 * COHORT_MAX + 3


class Stopped:
    """A clock that stands still: on a busy machine those at the end would have waited for too long, and be refused."""

    def __init__(self, elapsed_ns: int) -> None:
        self._elapsed_ns = elapsed_ns

    def now_ms(self) -> int:
        return NOW_MS

    def elapsed_ns(self) -> int:
        return self._elapsed_ns


async def together(auctioneer: Auctioneer, arrivals: Sequence[Arrival]) -> list[Answer]:
    """Return the answers to requests of one turn, which have nothing to wait for, in the order in which they came."""
    found: dict[int, Answer] = {}

    async def answer(number: int, arrival: Arrival) -> None:
        found[number] = await auctioneer.answer(arrival)

    for number, arrival in enumerate(arrivals):
        auctioneer.cohort.start(answer(number, arrival))
    auctioneer.cohort.run()
    return [found[number] for number in range(len(arrivals))]


def arrivals(market: Market, requests: Sequence[dict[str, Any]]) -> list[Arrival]:
    now_ns = market.clock.elapsed_ns()
    return [Arrival(market.profile, json.dumps(one).encode(), "", now_ns) for one in requests]


@pytest.fixture(scope="module")
def auction(tmp_path_factory: pytest.TempPathFactory) -> tuple[Auctioneer, list[bytes]]:
    """An auction with the network for a model, and requests of as many users."""
    users, bodies = set(), []
    traffic = Traffic(7, (Source(supply.EXCHANGE, "2.6", True, 9_000, 1.0, deals=True),))
    for body in (json.dumps(traffic.request(index).payload).encode() for index in range(20 * REQUESTS)):
        user = decode_request(body).user
        if user is not None and user.id and user.id not in users:
            users.add(user.id)
            bodies.append(body)
    bodies = list(islice(bodies, REQUESTS))
    offered = supply.offered(bodies, PROFILE, NOW_MS)
    wanted = catalogue(offered, 200, Mix.BID)
    root: Path = tmp_path_factory.mktemp("models")
    network = bundle.load(root, publish(root, offered, wanted))
    snapshot = build(wanted, "v", NOW_MS)
    found = _auctioneer(Made(snapshot, align(None, snapshot.line_item_ids), []), network)
    return dataclasses.replace(found, clock=Stopped(found.clock.elapsed_ns())), bodies


async def test_each_decides_what_it_would_by_itself(auction: tuple[Auctioneer, list[bytes]]) -> None:
    auctioneer, bodies = auction
    alone, in_step = Heard(auctioneer.journal._outbox), Heard(auctioneer.journal._outbox)
    one_by_one = dataclasses.replace(auctioneer, journal=alone)
    for body in bodies:
        assert len(await together(one_by_one, [Arrival(PROFILE, body, "", auctioneer.clock.elapsed_ns())])) == 1
        _forget(one_by_one)
    now_ns = auctioneer.clock.elapsed_ns()
    answers = await together(
        dataclasses.replace(auctioneer, journal=in_step), [Arrival(PROFILE, body, "", now_ns) for body in bodies]
    )
    assert sum(answer.status == 200 for answer in answers) > REQUESTS / 2
    told, expected = _told(in_step.bids), _told(alone.bids)
    assert told.keys() == expected.keys()
    for key, fields in told.items():
        rates = {name: pytest.approx(expected[key][name], rel=1e-6) for name in ("pctr", "pcvr")}
        assert fields == {**expected[key], **rates}


def _forget(auctioneer: Auctioneer) -> None:
    for bid_id in list(auctioneer.pending._bids):
        auctioneer.pending.discard(bid_id)


def _told(bids: Sequence[Bid]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the records of bids say, by auction and impression, but for the ids of bid and lease."""
    found = {}
    for bid in bids:
        fields, facts = ({name: getattr(one, name) for name in one.__struct_fields__} for one in (bid, bid.facts))
        for name in ("facts", "bid_id", "lease_id"):
            (fields if name in fields else facts).pop(name)
        found[bid.facts.auction_id, bid.facts.imp_id] = {**fields, **facts}
    return found


async def test_the_model_is_asked_once_for_all_of_them() -> None:
    market, calls = Market(), []
    scorer = market.state.predictor

    class Counted(Scorer):
        def predict_all(self, asked: Sequence[Asked]) -> list[Predictions]:
            calls.append(len(asked))
            return super().predict_all(asked)

    market.model(Counted("counted", scorer.pctr, scorer.pcvr))
    before = [REGISTRY.get_sample_value(f"dsp_predict_batch_size_{what}") or 0.0 for what in ("count", "sum")]
    await together(market.auctioneer, arrivals(market, [bid_request(str(number)) for number in range(5)]))
    await together(market.auctioneer, arrivals(market, [bid_request("alone")]))
    after = [REGISTRY.get_sample_value(f"dsp_predict_batch_size_{what}") or 0.0 for what in ("count", "sum")]
    assert calls == [5, 1]
    assert [now - then for now, then in zip(after, before, strict=True)] == [6, 5 * 5 + 1]  # of impressions


@pytest.mark.parametrize("level", ["line item", "campaign", "advertiser"])
async def test_a_cap_holds_among_them(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markets, "catalogue", lambda: test_users._catalogue(level))
    market = test_users.market()
    requests = [bid_request(str(number), user={"id": "u1"}) for number in range(COHORT_MAX)]
    others = [bid_request(f"o{number}", user={"id": "u2"}) for number in range(COHORT_MAX)]
    answers = await together(market.auctioneer, arrivals(market, [*requests[:4], *others[:4], *requests[4:]]))
    assert [answer.status for answer in answers].count(200) == 2
    assert [answers[0].status, answers[4].status] == [200, 200]  # first come, first served


async def test_money_is_spent_once_among_them() -> None:
    market = Market(money=3 * 4_250)
    answers = await together(market.auctioneer, arrivals(market, [bid_request(str(number)) for number in range(8)]))
    assert [answer.status for answer in answers] == [200] * 3 + [204] * 5
    assert market.leases.reserved_micros == 3 * 4_250
    assert market.auctioneer.admission.inflight == 0


async def test_a_faulty_one_is_a_no_and_the_others_bid(monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market()
    requests = [bid_request("a"), {"id": "b"}, bid_request("c", tmax=1), bid_request("d")]
    answers = await together(market.auctioneer, [*arrivals(market, requests), Arrival(market.profile, b"{", "", 0)])
    assert [answer.status for answer in answers] == [200, 400, 204, 200, 400]
    assert market.auctioneer.admission.inflight == 0


async def test_a_stage_is_charged_with_its_own_time_alone() -> None:
    clock, cohort = ManualClock(), Cohort()

    async def auction(run: Run, ms: int) -> None:
        for stage in (Stage.DECODE, Stage.ENRICH):
            clock.advance(ms)
            await run.mark(stage)

    runs = {ms: Run(Arrival(PROFILE, b"", "", 0), None, clock, cohort) for ms in (1, 5)}
    for ms, run in runs.items():
        cohort.start(auction(run, ms))
    cohort.run()
    spent_ms = {ms: [(ended - began) // NS_PER_MS for _, began, ended in run._spent[1:]] for ms, run in runs.items()}
    assert spent_ms == {1: [1], 5: [5]}
    # But the time for which the others had their turn counts against its deadline.
    assert {run.elapsed_ms() for run in runs.values()} == {clock.elapsed_ns() // NS_PER_MS}
