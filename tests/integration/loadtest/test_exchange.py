"""The simulated exchange against a small bidder: pacing, lateness, notices sent twice, again, or never."""

import asyncio
import gc
from collections.abc import Mapping
from itertools import count as counter
from pathlib import Path
from typing import NamedTuple

from dsp.kernel.clock import ManualClock
from dsp.openrtb.profile import cipher, load_profiles
from loadtest.client import Answer, Client
from loadtest.day import loop as simulated
from loadtest.exchange import Exchange, due_seconds
from loadtest.notifier import Manners, Notifier
from loadtest.traffic import SOURCES, Source, Traffic
from loadtest.truth import Tally, Truth
from tests.integration.loadtest.fake_bidder import FakeBidder
from tests.traffic import PATIENT

PROFILES = load_profiles(Path(__file__).parents[3] / "config" / "demo" / "exchanges")
QUICK = {
    "click_delay_seconds": (0.0, 0.01),
    "conversion_delay_seconds": (0.0, 0.01),
    "render_delay_seconds": (0.0, 0.01),
}


class Run(NamedTuple):
    """A run that is over."""

    truth: Truth
    tally: Tally
    bidder: FakeBidder


async def run(
    bidder: FakeBidder,
    manners: Manners,
    count: int = 200,
    rate: float = 200.0,
    sources: tuple[Source, ...] = PATIENT,
) -> Run:
    runner = await bidder.start()
    truth = Truth()
    try:
        async with Client() as bids, Client() as calls:
            notifier = Notifier(calls, truth, seed=1, manners=manners)
            exchange = Exchange(bids, bidder.url, Traffic(1, sources), PROFILES, truth, notifier)
            sent = counter()
            await exchange.drive(rate, lambda _: next(sent) >= count)
            assert await notifier.settle(60.0)
    finally:
        await runner.cleanup()
    return Run(truth, truth.total(), bidder)


class Slow:
    """A client whose every request takes a second to be answered; it notes when each came."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.at_ms: list[int] = []

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.at_ms.append(self.clock.now_ms())
        await asyncio.sleep(1.0)
        return Answer(204, b"", "")


def test_requests_keep_to_the_schedule_however_slow_the_answers() -> None:
    clock, truth = ManualClock(), Truth()
    slow, sent, began_ms = Slow(clock), counter(), clock.now_ms()

    async def work() -> None:
        notifier = Notifier(slow, truth, seed=1)  # type: ignore[arg-type]
        exchange = Exchange(slow, "http://x", Traffic(1), PROFILES, truth, notifier, lambda: clock.now_ms() / 1_000)  # type: ignore[arg-type]
        await exchange.drive(200.0, lambda _: next(sent) >= 300)

    simulated.run(work(), clock)
    assert [at_ms - began_ms for at_ms in slow.at_ms] == [5 * number for number in range(300)]


def test_the_driver_collects_no_garbage_while_answers_come_and_does_again_after() -> None:
    clock, truth = ManualClock(), Truth()
    slow, collecting = Slow(clock), set[bool]()

    def until(elapsed: float) -> bool:
        collecting.add(gc.isenabled())
        return elapsed > 0.1

    async def work() -> None:
        exchange = Exchange(slow, "", Traffic(1), {}, truth, Notifier(slow, truth, 1), lambda: clock.now_ms() / 1_000)  # type: ignore[arg-type]
        await exchange.drive(100.0, until)

    simulated.run(work(), clock)
    assert collecting == {False}
    assert gc.isenabled()


async def test_what_is_due_while_too_many_are_unanswered_is_not_sent_and_counted() -> None:
    bidder = FakeBidder(3.0)
    bidder.delay_seconds = 60.0
    runner = await bidder.start()
    truth = Truth()
    try:
        async with Client(timeout_seconds=2.0) as bids, Client() as calls:
            notifier = Notifier(calls, truth, seed=1)
            exchange = Exchange(bids, bidder.url, Traffic(1), PROFILES, truth, notifier, in_flight_max=4)
            due = counter()
            await exchange.drive(1_000.0, lambda _: next(due) >= 50)
    finally:
        await runner.cleanup()
    assert (bidder.asked, truth.total().requests, truth.total().unsent) == (4, 4, 46)


async def test_every_request_is_answered_and_counted() -> None:
    done = await run(FakeBidder(6.0), Manners(**QUICK))
    assert done.tally.requests == 200
    assert done.tally.failed == done.tally.late == 0
    assert not done.tally.faults
    assert done.tally.statuses[200] + done.tally.statuses[204] == done.tally.requests


async def test_requests_one_after_the_other_share_a_connection() -> None:
    bidder, truth, traffic = FakeBidder(6.0), Truth(), Traffic(1, PATIENT)
    runner = await bidder.start()
    async with Client() as bids, Client() as calls:
        notifier = Notifier(calls, truth, seed=1, manners=Manners(**QUICK))
        exchange = Exchange(bids, bidder.url, traffic, PROFILES, truth, notifier)
        for number in range(20):
            await exchange.serve(traffic.request(number))
        assert await notifier.settle(60.0)
    await runner.cleanup()
    assert len(bidder.connections) == 1


async def test_wins_are_billed_once_each_at_the_clearing_price() -> None:
    done = await run(FakeBidder(3.0), Manners(duplicate_share=0.0, lost_share=0.0, render_share=1.0, **QUICK))
    billing = {key: sent for key, sent in done.truth.notices.items() if sent.cost_micros}
    assert done.tally.wins == len(billing) == done.tally.impressions > 30
    for key, sent in billing.items():
        token = (key.kind, f"{key.auction_id}.{key.imp_id}")
        assert sent.acknowledged == done.bidder.notices[token] == 1
        price = cipher(PROFILES[key.exchange]).decrypt(done.bidder.prices[token])
        assert sent.cost_micros == -(-round(price * 1_000_000) // 1_000)
        assert key.kind == PROFILES[key.exchange].billing
    firsts = [sent.cost_micros for key, sent in billing.items() if key.exchange == "demo-first"]
    seconds = [sent.cost_micros for key, sent in billing.items() if key.exchange == "demo-second"]
    assert set(firsts) == {3_000}
    assert min(seconds) < 3_000
    assert max(seconds) <= 3_000


async def test_every_bid_is_won_or_lost_and_losers_hear_of_it() -> None:
    done = await run(FakeBidder(1.0), Manners(duplicate_share=0.0, lost_share=0.0, **QUICK))
    losses = [key for key in done.truth.notices if key.kind == "loss"]
    assert len(losses) + done.tally.wins == done.tally.bids > 50
    assert losses


async def test_duplicates_are_sent_and_counted_as_one_notice() -> None:
    done = await run(FakeBidder(5.0), Manners(duplicate_share=1.0, lost_share=0.0, **QUICK))
    bills = {key: sent for key, sent in done.truth.notices.items() if sent.cost_micros}
    assert bills
    assert all(sent.acknowledged in (2, 3) for sent in bills.values())


async def test_lost_notices_are_never_sent() -> None:
    done = await run(FakeBidder(5.0), Manners(lost_share=1.0, **QUICK))
    assert done.tally.wins > 0
    assert not done.truth.notices
    assert not done.bidder.notices
    assert done.truth.never_sent


async def test_notices_are_sent_again_until_acknowledged() -> None:
    bidder = FakeBidder(5.0)
    bidder.failures_left = 40
    done = await run(bidder, Manners(duplicate_share=0.0, lost_share=0.0, **QUICK))
    assert all(sent.acknowledged == 1 for sent in done.truth.notices.values())
    assert sum(sent.attempts for sent in done.truth.notices.values()) == len(done.truth.notices) + 40


async def test_clicks_follow_the_redirect_to_a_conversion() -> None:
    done = await run(FakeBidder(9.0), Manners(lost_share=0.0, **QUICK), count=800, rate=400.0)
    conversions = [key for key in done.truth.notices if key.kind == "conv"]
    clicks = [key for key in done.truth.notices if key.kind == "click"]
    assert len(clicks) == done.tally.clicks > 5
    assert len(conversions) == done.tally.conversions > 0


async def test_a_late_answer_is_no_bid_and_counted() -> None:
    bidder = FakeBidder(9.0)
    bidder.delay_seconds = 0.3
    done = await run(bidder, Manners(lost_share=0.0, **QUICK), count=60, sources=SOURCES)
    assert done.tally.late == done.tally.requests
    assert done.tally.bids == 0
    assert {key.kind for key in done.truth.notices} == {"loss"}


async def test_no_answer_is_counted_as_failed() -> None:
    bidder = FakeBidder(1.0)
    runner = await bidder.start()
    await runner.cleanup()  # nobody listens any more
    truth = Truth()
    async with Client() as bids, Client() as calls:
        exchange = Exchange(bids, bidder.url, Traffic(1), PROFILES, truth, Notifier(calls, truth, 1))
        await exchange.drive(100.0, lambda elapsed: elapsed >= 0.2)
    total = truth.total()
    assert total.failed == total.requests == len(truth.failures_at) > 0


def test_the_ramp_rises_evenly_to_the_rate() -> None:
    due = [due_seconds(number, 100.0, 4.0) for number in range(601)]
    assert due == sorted(due)
    assert due[0] == 0.0
    assert due[200] == 4.0  # half of what a full rate would have sent
    assert due[600] == 8.0
    assert due_seconds(50, 100.0, 0.0) == 0.5
