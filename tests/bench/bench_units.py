"""What whole units of the bid path cost, by the size of the catalogue: `make bench`, or with pytest's own options

    python -m pytest -o addopts=--import-mode=importlib tests/bench/bench_units.py -k "recall and 10000"

Each call takes the next of many requests, so that what is remembered of one does not answer for the next. Minima of one
run can be compared with each other; figures of different machines, or of a busy one, cannot.
"""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from bidder.auction import Answer, Auctioneer
from bidder.config import BidderConfig
from bidder.offer import Offer
from bidder.respond import Responder, Response
from bidder.run import Arrival
from bidder.state import Serving, ServingState, serve
from bidder.wiring import Deployment, wire
from dsp.cache.port import LeaseReport, LeaseState
from dsp.catalog.reasons import Exclusion
from dsp.funnel import select
from dsp.funnel.selection import Selection
from dsp.kernel.clock import NS_PER_MS, ManualClock
from dsp.kernel.config import Platform
from dsp.ledger.lease import LeaseBook
from dsp.ledger.terms import lease_id
from dsp.openrtb.codec import decode_request, validate
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import BidRequest
from dsp.pacing.columns import ControlColumns, align
from dsp.pricing.bid import price
from dsp.pricing.value import value_by_unit_micros_cpm
from dsp.snapshot.build import Snapshot, build
from loadtest.bids import supply
from loadtest.bids.catalogue import Mix, catalogue
from loadtest.bids.model import publish
from models.features.encode import request_row
from models.serving import bundle
from models.serving.prior import ConstantPredictor
from tests.unit.bidder.fakes import FakeLog, FakeUsers

SIZES = (100, 10_000, 50_000)
REQUESTS = 5_000
LIMIT = 32
NOW_MS = 1_750_068_000_000
PLENTY_MICROS = 10**12
PROFILE = Profile(name=supply.EXCHANGE, seat="dsp", qps_max=10**9, tmax_default_ms=10_000)


class Clock(ManualClock):
    """Wall time that stands still, elapsed time of this machine."""

    def elapsed_ns(self) -> int:
        return time.perf_counter_ns()


class Made(NamedTuple):
    """A compiled catalogue, and impressions with the candidates that they have in it."""

    snapshot: Snapshot
    controls: ControlColumns
    impressions: Sequence[tuple[Opportunity, Selection | Exclusion]]

    def chosen(self) -> Iterator[tuple[Opportunity, Selection]]:
        """Yield, again and again, the impressions that have candidates."""
        some = [(one, found) for one, found in self.impressions if not isinstance(found, Exclusion)]
        return itertools.cycle(some)


@cache
def bodies() -> list[bytes]:
    # A deadline is not what is measured: nobody is to run out of time on a slow machine.
    return [body.replace(b'"tmax":200', b'"tmax":9000') for body in supply.read(None)[:REQUESTS]]


@cache
def opportunities() -> list[Opportunity]:
    return supply.offered(bodies(), PROFILE, NOW_MS)


@cache
def made(size: int, mix: Mix) -> Made:
    snapshot = build(catalogue(opportunities(), size, mix), "v", NOW_MS)
    controls = align(None, snapshot.line_item_ids)
    some = opportunities()[:500]
    found = [(one, select(snapshot, one, None, controls, NOW_MS, LIMIT, "dsp")) for one in some]
    return Made(snapshot, controls, found)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    root: Path = tmp_path_factory.mktemp("models")
    return bundle.load(root, publish(root, opportunities(), catalogue(opportunities(), 1_000, Mix.BID)))


def in_turn(benchmark: Any, work: Callable[..., object], given: Iterator[tuple[Any, ...]]) -> None:
    """Measure calls on one set of arguments after the other."""
    benchmark.pedantic(work, setup=lambda: (next(given), {}), rounds=2_000, warmup_rounds=200)


def test_decode(benchmark: Any) -> None:
    def decode(body: bytes) -> None:
        validate(decode_request(body))

    in_turn(benchmark, decode, ((body,) for body in itertools.cycle(bodies())))


def test_enrich(benchmark: Any) -> None:
    given = itertools.cycle([[body] for body in bodies()])
    in_turn(benchmark, lambda body: supply.offered(body, PROFILE, NOW_MS), ((body,) for body in given))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mix", list(Mix))
def test_recall(benchmark: Any, size: int, mix: Mix) -> None:
    found = made(size, mix)

    def recall(opportunity: Opportunity) -> None:
        select(found.snapshot, opportunity, None, found.controls, NOW_MS, LIMIT, "dsp")

    in_turn(benchmark, recall, ((one,) for one in itertools.cycle(opportunities())))


def test_encode(benchmark: Any) -> None:
    in_turn(benchmark, lambda one: request_row(one, None), ((one,) for one in itertools.cycle(opportunities())))


def test_predict(benchmark: Any, network: bundle.Bundle) -> None:
    found = made(10_000, Mix.BID)
    scorer = network.predictor.prepare(serve(found.snapshot, None).ad_rows)
    given = ((request_row(one, None), chosen.creatives) for one, chosen in found.chosen())
    in_turn(benchmark, scorer.predict, given)


def test_price(benchmark: Any) -> None:
    found = made(10_000, Mix.BID)
    snapshot, multipliers = found.snapshot, found.controls.multiplier

    def priced(chosen: Selection) -> None:
        rows, floors = chosen.line_items, chosen.floors_micros_cpm
        per_mille, per_click, per_conversion, low, high = snapshot.terms_micros.take(rows, 0).T
        value = value_by_unit_micros_cpm(per_mille, per_click, per_conversion, rates, rates)
        price(value, multipliers.take(rows), floors, chosen.first_price, 0.85, low, high, chosen.fixed_price)

    ads = serve(snapshot, None).ad_rows[:LIMIT]
    rates = ConstantPredictor().predict_rows(ads[:0], ads).pctr
    in_turn(benchmark, priced, ((chosen,) for _, chosen in found.chosen() if len(chosen.line_items) == LIMIT))


class Taker(Responder):
    """Takes what a response was to be made of, and makes none: the auction then gives back what it had reserved."""

    def __init__(self) -> None:
        self.taken: list[tuple[BidRequest, Profile, Sequence[Offer]]] = []

    def respond(self, request: BidRequest, profile: Profile, offers: Sequence[Offer]) -> Response:
        if offers:
            self.taken.append((request, profile, offers))
        return Response(b"", [])


def test_respond(benchmark: Any, network: bundle.Bundle) -> None:
    """From the offers whose money is reserved to the answer's JSON: markup, notice URLs, self-check."""
    auctioneer, taker, bids = _auctioneer(made(10_000, Mix.BID), network), Taker(), []
    auction = dataclasses.replace(auctioneer, responder=taker)

    def offered() -> Iterator[tuple[BidRequest, Profile, Sequence[Offer]]]:
        for body in itertools.cycle(bodies()):
            run(auction, body)
            while taker.taken:
                yield taker.taken.pop()

    def respond(request: BidRequest, profile: Profile, offers: Sequence[Offer]) -> None:
        body, sent = auctioneer.responder.respond(request, profile, offers)
        bids.append(len(sent) if body else 0)

    in_turn(benchmark, respond, offered())
    assert min(bids) > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mix", list(Mix))
def test_auction(benchmark: Any, network: bundle.Bundle, size: int, mix: Mix) -> None:
    """The whole of it, from bytes to answer; HTTP is not in it."""
    auctioneer = _auctioneer(made(size, mix), network)
    statuses = []

    def answer(body: bytes) -> None:
        statuses.append(run(auctioneer, body).status)

    in_turn(benchmark, answer, ((body,) for body in itertools.cycle(bodies())))
    bids = statuses.count(200) / len(statuses)
    assert bids > 0.8 if mix is Mix.BID else bids == 0.0


def run(auctioneer: Auctioneer, body: bytes) -> Answer:
    """Return the answer to a request; nothing in it has to be waited for."""
    try:
        auctioneer.answer(Arrival(PROFILE, body, "", time.perf_counter_ns())).send(None)
    except StopIteration as found:
        return cast(Answer, found.value)
    raise AssertionError("the auction waits")


def _auctioneer(found: Made, network: bundle.Bundle) -> Auctioneer:
    """Return the auction with money for every line item, and stand-ins for the log and the users."""
    snapshot, clock, serving = found.snapshot, Clock(NOW_MS), Serving()
    served = serve(snapshot, None)
    scorers = network.predictor.prepare(served.ad_rows), network.prior.prepare(served.ad_rows)
    serving.swap(ServingState(served, found.controls, 0, *scorers))
    leases, elapsed_ms = LeaseBook(1, silence_ms_max=3_600_000), clock.elapsed_ns() // NS_PER_MS
    pairs = zip(snapshot.line_item_ids.tolist(), snapshot.days(NOW_MS).tolist(), strict=True)
    states = [LeaseState(lease_id(1, item, day), item, day, PLENTY_MICROS, 0) for item, day in pairs]
    leases.reserve(0, 0, "", 0, elapsed_ms, NOW_MS + 86_400_000)  # demand comes first
    leases.wants(elapsed_ms)
    leases.apply(LeaseReport(states, 0), elapsed_ms)
    deployment = Deployment(Platform(), {PROFILE.name: PROFILE}, [b"k" * 32])
    config = BidderConfig(candidates_max=LIMIT)
    with asyncio.Runner() as runner:

        async def wired() -> Auctioneer:
            return wire(
                deployment, config, clock, FakeLog(), serving=serving, leases=leases, users=FakeUsers()
            ).auctioneer

        return runner.run(wired())
