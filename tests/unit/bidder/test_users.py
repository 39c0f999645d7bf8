"""What the auction makes of the user store: at once, slow, hung, away; and of users nobody may count."""

import asyncio
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from bidder.config import BidderConfig
from bidder.enrich import Enricher
from bidder.patience import at_most
from bidder.tally import Tally
from dsp.catalog.entities import Catalogue
from dsp.catalog.exposures import pack
from dsp.catalog.terms import FrequencyCap
from dsp.catalog.user import Exposure, UserRecord
from dsp.kernel.clock import ManualClock
from dsp.openrtb.normalise import user_key
from dsp.openrtb.request import User
from loadtest.day import loop as simulated
from tests.integration.bidder.world import bid_request, catalogue
from tests.unit.bidder import markets
from tests.unit.bidder.markets import Market

KEY = b"k" * 16
ONCE_AN_HOUR = (FrequencyCap(impressions=1, window_seconds=3_600),)
USER = user_key(User(id="u1"), None, "x", KEY)
Policy = Literal["bid", "no_bid_capped"]


@pytest.fixture(params=["line item", "campaign", "advertiser"])
def capped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the market's only banner line item a cap, at each level in turn."""
    level = str(request.param)
    monkeypatch.setattr(markets, "catalogue", lambda: _catalogue(level))
    return level


def _catalogue(level: str) -> Catalogue:
    whole = catalogue(caps=ONCE_AN_HOUR if level == "line item" else ())
    if level == "campaign":
        return replace(whole, campaigns=tuple(replace(one, frequency_caps=ONCE_AN_HOUR) for one in whole.campaigns))
    if level == "advertiser":
        advertisers = tuple(replace(one, frequency_caps=ONCE_AN_HOUR) for one in whole.advertisers)
        return replace(whole, advertisers=advertisers)
    return whole


def market(absent: Policy = "no_bid_capped", unidentified: Policy = "bid", timeout_ms: float = 20.0) -> Market:
    made = Market()
    config = BidderConfig(user_timeout_ms=timeout_ms, user_absent_policy=absent, user_unidentified_policy=unidentified)
    enricher = Enricher(made.users, made.pending, {"USD": 1.0}, KEY, 0, config)
    object.__setattr__(made.auctioneer, "enricher", enricher)
    return made


async def bids(made: Market, **fields: Any) -> int:
    return len((await made.ask(bid_request("a", **fields)))[1])


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_what_was_seen_is_not_bid_for_again(capped: str) -> None:
    made = market()
    assert await bids(made) == 1
    made.users.records[USER] = UserRecord(pack([Exposure("b", made.clock.now_ms() - 3_599_999, 1, 2, 10)]))
    made.pending.discard(next(iter(made.pending._bids)))
    assert await bids(made) == 0
    made.clock.advance(1)
    assert await bids(made) == 1


async def test_the_second_impression_of_a_request_sees_the_first(capped: str) -> None:
    made = market()
    request = bid_request("a")
    request["imp"].append({**request["imp"][0], "id": "2"})
    _, offered = await made.ask(request)
    assert [bid["impid"] for bid in offered] == ["1"]


async def test_requests_at_once_of_one_user_see_each_other(capped: str) -> None:
    made = market(timeout_ms=5_000)
    made.users.silent = 0.01  # every request has asked before any is answered
    assert sum(await asyncio.gather(*(bids(made) for _ in range(8)))) == 1


@pytest.mark.parametrize("fault", ["slow", "hung", "away"])
@pytest.mark.parametrize(("absent", "expected"), [("bid", 1), ("no_bid_capped", 0)])
def test_without_an_answer_the_policy_decides_on_what_has_caps(
    capped: str, fault: str, absent: Policy, expected: int
) -> None:
    made = market(absent=absent)
    made.users.away = fault == "away"
    made.users.silent = {"slow": 0.5, "hung": 3_600.0, "away": 0.0}[fault]
    labels = {"call": "get", "fault": "unavailable" if fault == "away" else "timeout"}
    faults = count("dsp_user_faults_total", **labels)
    unknown = count("dsp_no_bids_total", exchange="x", reason="frequency_unknown")
    began_ms = made.clock.now_ms()
    assert simulated.run(bids(made, tmax=450), made.clock) == expected
    assert made.clock.now_ms() - began_ms == (0 if fault == "away" else 20)
    assert count("dsp_user_faults_total", **labels) == faults + 1
    assert count("dsp_no_bids_total", exchange="x", reason="frequency_unknown") == unknown + 1 - expected


def test_what_has_no_caps_bids_in_time_while_the_store_hangs() -> None:
    made = market()
    made.users.silent = 3_600.0
    began_ms = made.clock.now_ms()

    async def work() -> None:
        answers = await asyncio.gather(*(made.ask(bid_request(f"a{number}", tmax=450)) for number in range(9)))
        assert {answer.status for answer, _ in answers} == {200}

    simulated.run(work(), made.clock)
    assert made.clock.now_ms() - began_ms <= 20


def test_no_more_than_half_of_the_time_left_is_waited(capped: str) -> None:
    made = market(timeout_ms=10_000)
    made.users.silent = 3_600.0
    began_ms = made.clock.now_ms()
    assert simulated.run(bids(made, tmax=450), made.clock) == 0
    assert 0 < made.clock.now_ms() - began_ms <= 225


async def test_a_little_slowness_is_waited_for(capped: str) -> None:
    made = market(timeout_ms=5_000)
    made.users.silent = 0.01
    assert await bids(made) == 1
    made.pending.discard(next(iter(made.pending._bids)))
    made.users.records[USER] = UserRecord(pack([Exposure("b", made.clock.now_ms(), 1, 2, 10)]))
    assert await bids(made) == 0


@pytest.mark.parametrize(
    "fields",
    [{"user": {}}, {"user": {"id": "u1"}, "regs": {"coppa": 1}}, {"user": {"id": "u1"}, "regs": {"gdpr": 1}}],
)
@pytest.mark.parametrize(("unidentified", "expected"), [("bid", 2), ("no_bid_capped", 0)])
async def test_users_who_cannot_be_counted(
    capped: str, fields: dict[str, Any], unidentified: Policy, expected: int
) -> None:
    made = market(unidentified=unidentified)
    assert [await bids(made, **fields) for _ in range(2)] == [expected // 2] * 2
    assert len(made.pending) == 0


async def test_what_has_no_caps_needs_no_user() -> None:
    made = market(unidentified="no_bid_capped")
    assert await bids(made, user={}) == 1


def test_a_store_that_ignores_being_cancelled_is_left_alone() -> None:
    clock, woken = ManualClock(), asyncio.Event()
    began_ms = clock.now_ms()

    async def stubborn() -> None:
        while not woken.is_set():
            try:
                await woken.wait()
            except asyncio.CancelledError:
                continue

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await at_most(5.0, stubborn())
        woken.set()

    simulated.run(work(), clock)
    assert clock.now_ms() - began_ms == 5


@pytest.mark.parametrize("call", ["get", "expose", "respond"])
@pytest.mark.parametrize("fault", ["timeout", "unavailable"])
def test_every_fault_is_counted_from_the_start(call: str, fault: str) -> None:
    """Else a rate would not see the first one."""
    Tally(())
    assert REGISTRY.get_sample_value("dsp_user_faults_total", {"call": call, "fault": fault}) is not None
