"""The notice desk: what it believes, what it writes, what it tells the lease book, and when it acknowledges."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from bidder.config import BidderConfig
from bidder.notices import NoticeDesk, Outcome
from bidder.outbox import LaneTuning, Outbox
from bidder.pending import PendingExposures
from bidder.state import Serving, ServingState, serve
from dsp.catalog.entities import ConversionRule
from dsp.catalog.exposures import seen
from dsp.catalog.validate import WINDOW_SECONDS_MAX
from dsp.events.schema import BidFacts, Notice, NoticeKind, decode, encode_facts
from dsp.events.topics import Topic
from dsp.frequency.evidence import exposure_of
from dsp.kernel.clock import ManualClock
from dsp.kernel.ids import TokenSigner
from dsp.ledger.apply import entry
from dsp.ledger.book import Transaction
from dsp.openrtb.profile import Profile, cipher
from dsp.pacing.columns import align
from dsp.snapshot.build import build
from models.serving.prior import ConstantPredictor
from tests.integration.bidder.world import LANDING, catalogue
from tests.notices import FACTS
from tests.people import has_bids
from tests.unit.bidder.fakes import FakeLog, FakeUsers

KEYS = {"price_encryption_key": "ab" * 16, "price_integrity_key": "cd" * 16}
PROFILES = {
    "burl": Profile(name="burl", billing="bill"),
    "nurl": Profile(name="nurl", billing="win", price_cipher="google", **KEYS),
    "mille": Profile(name="mille", billing="win", price_cipher="google_cpm", **KEYS),
    "pixel": Profile(name="pixel", billing="imp"),
}


@dataclass
class FakeLeases:
    released: list[str] = field(default_factory=list)
    billed: dict[str, int] = field(default_factory=dict)

    def release(self, bid_id: str, appended_ms: int) -> None:
        self.released.append(bid_id)

    def bill(self, bid_id: str, cost_micros: int, appended_ms: int) -> None:
        self.billed[bid_id] = cost_micros


class Desk:
    """A desk and everything around it."""

    def __init__(self, **settings: int) -> None:
        self.clock = ManualClock()
        self.log = FakeLog()
        self.leases = FakeLeases()
        self.users = FakeUsers()
        self.pending = PendingExposures(1_000, 10)
        self.signer = TokenSigner([b"k" * 32], NoticeKind)
        self.outbox = Outbox(self.log, {Topic.NOTICES: LaneTuning(100, 1)}, 50, self.clock)
        self.serving = Serving()
        self.desk = NoticeDesk(
            config=BidderConfig(**settings),  # type: ignore[arg-type]
            clock=self.clock,
            signer=self.signer,
            profiles=PROFILES,
            serving=self.serving,
            leases=self.leases,
            users=self.users,
            pending=self.pending,
            outbox=self.outbox,
        )

    def facts(self, exchange: str = "burl", bid_id: str = "b1", **fields: object) -> BidFacts:
        now_ms = self.clock.now_ms()
        known: dict[str, object] = {
            "exchange": exchange,
            "auction_id": f"a-{bid_id}",
            "bid_id": bid_id,
            "price_micros_cpm": 4_000_000,
            "cost_micros_max": 4_000,
            "bid_at_ms": now_ms,
            "expires_at_ms": now_ms + 60_000,
            "lease_id": "1-3-20000",
            "user_key": "u",
        }
        return replace(FACTS, **{**known, **fields})

    async def send(
        self, kind: NoticeKind, facts: BidFacts, signed_as: NoticeKind | None = None, **query: str
    ) -> Outcome:
        token = self.signer.tokens([signed_as or kind], encode_facts(facts))[0]
        return await self.desk.receive(kind, {"t": token, **query})

    def serve(self, *rules: ConversionRule) -> None:
        """Load a snapshot with these conversion rules."""
        snapshot = build(replace(catalogue(), conversion_rules=rules), "v1", self.clock.now_ms())
        served = serve(snapshot, None)
        prior = ConstantPredictor().prepare(served.ad_rows)
        self.serving.swap(ServingState(served, align(None, snapshot.line_item_ids), 0, prior, prior))

    @property
    def written(self) -> list[Notice]:
        events = [decode(entry.value) for entry in self.log.appended.get("notices", [])]
        return [event for event in events if isinstance(event, Notice)]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    await made.outbox.start()
    yield made
    await made.outbox.stop(1.0)


async def test_the_billing_notice_bills_and_the_others_do_not(desk: Desk) -> None:
    for exchange, billing in (("burl", NoticeKind.BILL), ("pixel", NoticeKind.IMPRESSION)):
        facts = desk.facts(exchange, exchange)
        for kind in (NoticeKind.WIN, NoticeKind.BILL, NoticeKind.IMPRESSION, NoticeKind.CLICK):
            await desk.send(kind, facts, p="2.5")
        costs = {one.kind: one.cost_micros for one in desk.written if one.facts.bid_id == exchange}
        assert costs == {kind: 2_500 if kind is billing else 0 for kind in costs}
        assert desk.leases.billed[exchange] == 2_500


async def test_encrypted_prices_are_read_and_plain_ones_refused(desk: Desk) -> None:
    price = cipher(PROFILES["nurl"]).encrypt(3.0, b"v" * 16)
    assert await desk.send(NoticeKind.WIN, desk.facts("nurl"), p="3.0") == Outcome(400)
    assert await desk.send(NoticeKind.WIN, desk.facts("nurl"), p=price[:-1] + "A") == Outcome(400)
    assert await desk.send(NoticeKind.WIN, desk.facts("nurl"), p=price) == Outcome(200)
    assert [one.cost_micros for one in desk.written] == [3_000]


@pytest.mark.parametrize(
    ("exchange", "clearing", "billed"),
    [
        ("nurl", 0.9, 900),
        ("nurl", 3.9991, 4_000),
        ("nurl", 4.002, None),
        ("mille", 3.99911, 4_000),
        ("mille", 3.999111, None),
    ],
)
async def test_a_price_of_one_impression_is_rounded_more(
    desk: Desk, exchange: str, clearing: float, billed: int | None
) -> None:
    price = cipher(PROFILES[exchange]).encrypt(clearing, b"v" * 16)
    facts = replace(desk.facts(exchange), price_micros_cpm=3_999_100)
    assert await desk.send(NoticeKind.WIN, facts, p=price) == Outcome(400 if billed is None else 200)
    assert [one.cost_micros for one in desk.written] == ([] if billed is None else [billed])


@pytest.mark.parametrize("price", ["", "${AUCTION_PRICE}", "%24%7BAUCTION_PRICE%7D", "${AUCTION_PRICE:B64}"])
async def test_without_a_price_it_bills_what_was_bid(desk: Desk, price: str) -> None:
    assert await desk.send(NoticeKind.BILL, desk.facts(), p=price) == Outcome(200)
    assert [(one.cost_micros, one.clearing_micros_cpm) for one in desk.written] == [(4_000, None)]


@pytest.mark.parametrize(("exchange", "kind"), [("burl", NoticeKind.BILL), ("nurl", NoticeKind.WIN)])
async def test_an_impression_that_cleared_at_nothing_is_booked_and_counts_for_caps(
    desk: Desk, exchange: str, kind: NoticeKind
) -> None:
    facts = desk.facts(exchange)
    price = "0" if exchange == "burl" else cipher(PROFILES["nurl"]).encrypt(0.0, b"v" * 16)
    assert await desk.send(kind, facts, p=price) == Outcome(200)
    (notice,) = desk.written
    assert (notice.cost_micros, notice.clearing_micros_cpm) == (1, 0)
    assert isinstance(entry(notice, facts.bid_at_ms), Transaction)
    assert exposure_of(notice) is not None


@pytest.mark.parametrize("price", ["4.001", "nan", "-0.5", "9e8", "1e9", "4,5", "AUDIT", "-1", "2.0 "])
async def test_prices_that_cannot_be_true_write_nothing(desk: Desk, price: str) -> None:
    expected = Outcome(200) if price == "2.0 " else Outcome(400)
    assert await desk.send(NoticeKind.BILL, desk.facts(), p=price) == expected
    assert len(desk.written) == (expected == Outcome(200))


async def test_a_test_s_notices_are_taken_and_cost_nothing(desk: Desk) -> None:
    facts = desk.facts(price_micros_cpm=0, cost_micros_max=0)
    assert (await desk.send(NoticeKind.WIN, facts, p="2.5")).status == 200
    assert (await desk.send(NoticeKind.BILL, facts, p="2.5")).status == 200
    assert [(one.cost_micros, one.clearing_micros_cpm) for one in desk.written] == [(0, 0), (0, 0)]
    assert (await desk.send(NoticeKind.BILL, facts, p="rubbish")).status == 400


async def test_who_only_looks_tells_nothing(desk: Desk) -> None:
    facts = desk.facts()
    token = desk.signer.tokens([NoticeKind.BILL], encode_facts(facts))[0]
    assert desk.desk.look(NoticeKind.BILL, {"t": token}) == Outcome(200)
    assert desk.desk.look(NoticeKind.WIN, {"t": token}) == desk.desk.look(NoticeKind.BILL, {}) == Outcome(400)
    desk.clock.advance(31 * 24 * 3_600_000)
    assert desk.desk.look(NoticeKind.BILL, {"t": token}) == Outcome(410)
    assert desk.written == []


@pytest.mark.parametrize(
    ("rate", "rounded", "beyond"),
    [(1.0, "4.00001", "4.000011"), (2.0, "2.00001", "2.000011"), (0.5, "8.00002", "8.000022")],
)
async def test_rounding_by_the_exchange_is_billed_at_our_bid(
    desk: Desk, rate: float, rounded: str, beyond: str
) -> None:
    """Ten micros of the exchange's currency or of ours, whichever are more."""
    facts = desk.facts(rate=rate)
    assert await desk.send(NoticeKind.BILL, facts, p=beyond) == Outcome(400)
    assert await desk.send(NoticeKind.BILL, facts, p=rounded) == Outcome(200)
    assert [(one.cost_micros, one.clearing_micros_cpm) for one in desk.written] == [(4_000, 4_000_000)]


async def test_no_more_is_billed_than_was_reserved(desk: Desk) -> None:
    await desk.send(NoticeKind.BILL, desk.facts(cost_micros_max=3_999), p="4.0")
    assert desk.leases.billed == {"b1": 3_999}


async def test_prices_are_converted_to_the_book(desk: Desk) -> None:
    await desk.send(NoticeKind.BILL, desk.facts(currency="EUR", rate=1.25), p="2.0")
    assert [one.cost_micros for one in desk.written] == [2_500]


async def test_a_token_of_another_kind_is_refused(desk: Desk) -> None:
    assert await desk.send(NoticeKind.BILL, desk.facts(), signed_as=NoticeKind.CLICK) == Outcome(400)
    assert await desk.desk.receive(NoticeKind.BILL, {}) == Outcome(400)
    assert await desk.desk.receive(NoticeKind.BILL, {"t": desk.signer.tokens(["bill"], b"x")[0]}) == Outcome(400)
    assert not desk.written


async def test_late_and_expired(desk: Desk) -> None:
    facts, older = desk.facts(), desk.facts(bid_id="b2")
    desk.clock.advance(60_001)
    assert await desk.send(NoticeKind.BILL, facts, p="1") == Outcome(200)
    assert [(one.late, one.cost_micros) for one in desk.written] == [(True, 1_000)]
    desk.clock.advance(25 * 3_600_000)
    assert await desk.send(NoticeKind.BILL, older, p="1") == Outcome(410)
    assert await desk.send(NoticeKind.CLICK, older) == Outcome(410)  # no snapshot: nowhere to lead
    assert len(desk.written) == 1


@pytest.mark.parametrize(
    ("kind", "age_max_seconds"),
    [(NoticeKind.BILL, 100), (NoticeKind.LOSS, 100), (NoticeKind.CLICK, 200), (NoticeKind.CONVERSION, 300)],
)
@pytest.mark.parametrize("beyond_ms", [0, 1])
async def test_each_kind_is_taken_for_as_long_as_its_setting_says(
    kind: NoticeKind, age_max_seconds: int, beyond_ms: int
) -> None:
    desk = Desk(late_age_max_seconds=100, click_age_max_seconds=200, conversion_age_max_seconds=300)
    await desk.outbox.start()
    facts = desk.facts()
    desk.clock.advance(age_max_seconds * 1_000 + beyond_ms)
    await desk.send(kind, facts)
    assert [one.kind for one in desk.written] == ([] if beyond_ms else [kind])
    await desk.outbox.stop(1.0)


async def test_a_conversion_counts_under_a_rule_of_its_advertisers_within_its_window(desk: Desk) -> None:
    def rule(number: int, advertiser_id: int, days: int, value_micros: int) -> ConversionRule:
        return ConversionRule(
            id=number, name="r", advertiser_id=advertiser_id, window_seconds=days * 86_400, value_micros=value_micros
        )

    facts = desk.facts()
    assert await desk.send(NoticeKind.CONVERSION, facts) == Outcome(200)  # under no rule: there is none
    desk.serve(rule(9, 1, 10, 900), rule(5, 1, 1, 500), rule(4, 2, 10, 400))
    for asked in ("", "9", "4", "5x", "5" * 20, "5" * 5_000, "\u0665"):  # the advertiser's first; his; another's; none
        status = (await desk.send(NoticeKind.CONVERSION, facts, **({"rule": asked} if asked else {}))).status
        assert status == (200 if asked in ("", "9") else 400)
    told = [(one.conversion_rule_id, one.value_micros) for one in desk.written]
    assert told == [(None, None), (5, 500), (9, 900)]

    other = desk.facts(bid_id="b2")
    desk.clock.advance(86_400_000)
    assert (await desk.send(NoticeKind.CONVERSION, other, rule="5")).status == 200
    other = replace(other, bid_id="b3")
    desk.clock.advance(1)
    assert [(await desk.send(NoticeKind.CONVERSION, other, rule=one)).status for one in ("5", "9")] == [400, 200]


async def test_a_conversion_counts_for_as_long_as_its_rule_says_and_without_one_for_thirty_days(desk: Desk) -> None:
    month_seconds = 30 * 86_400
    first, second, third = (desk.facts(bid_id=bid_id) for bid_id in ("b1", "b2", "b3"))
    desk.clock.advance(month_seconds * 1_000)
    assert (await desk.send(NoticeKind.CONVERSION, first)).status == 200
    desk.clock.advance(1)
    assert (await desk.send(NoticeKind.CONVERSION, second)).status == 400
    desk.serve(ConversionRule(id=5, name="r", advertiser_id=1, window_seconds=WINDOW_SECONDS_MAX))
    assert (await desk.send(NoticeKind.CONVERSION, second)).status == 200
    desk.clock.advance((WINDOW_SECONDS_MAX - month_seconds) * 1_000 - 1)
    assert (await desk.send(NoticeKind.CONVERSION, third)).status == 200


async def test_every_notice_is_counted_by_what_became_of_it(desk: Desk) -> None:
    def counts(name: str, label: str, values: list[str], **labels: str) -> list[float]:
        return [REGISTRY.get_sample_value(name, {**labels, label: one}) or 0.0 for one in values]

    def counted() -> list[float]:
        results = ["accepted", "duplicate", "late", "refused", "expired", "unavailable"]
        reasons = ["token_missing", "price_above_bid"]
        return [
            *counts("dsp_notices_total", "result", results, kind="bill"),
            *counts("dsp_notices_refused_total", "reason", reasons),
        ]

    before = counted()
    facts, late, unlucky = desk.facts(), desk.facts(bid_id="b2"), desk.facts(bid_id="b3")
    for _ in range(3):
        await desk.send(NoticeKind.BILL, facts, p="1")  # the first is accepted
    await desk.desk.receive(NoticeKind.BILL, {})
    await desk.send(NoticeKind.BILL, unlucky, p="9")
    desk.log.away = True
    await desk.send(NoticeKind.BILL, unlucky, p="1")
    desk.log.away = False
    desk.clock.advance(60_001)
    await desk.send(NoticeKind.BILL, late, p="1")
    desk.clock.advance(25 * 3_600_000)
    await desk.send(NoticeKind.BILL, unlucky, p="1")
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 2, 1, 2, 1, 1, 1, 1]


async def test_a_bill_after_the_loss_is_late(desk: Desk) -> None:
    facts = desk.facts()
    await desk.send(NoticeKind.LOSS, facts, r="102", m="4.5", p="${AUCTION_PRICE}")
    await desk.send(NoticeKind.BILL, facts, p="1")
    loss, bill = desk.written
    assert (loss.loss_reason, loss.min_to_win_micros_cpm, loss.clearing_micros_cpm) == (102, 4_500_000, None)
    assert bill.late
    assert desk.leases.released == ["b1"]


@pytest.mark.parametrize("rubbish", ["abc", "-1", "999999", "1.5", "²", "٣"])
async def test_rubbish_about_a_loss_is_left_out(desk: Desk, rubbish: str) -> None:
    assert await desk.send(NoticeKind.LOSS, desk.facts(), r=rubbish, m="nan", p="1e400") == Outcome(200)
    (loss,) = desk.written
    assert (loss.loss_reason, loss.min_to_win_micros_cpm, loss.clearing_micros_cpm) == (None, None, None)


async def test_duplicates_wait_for_the_first_and_are_written_once(desk: Desk) -> None:
    desk.log.gate.clear()
    sends = [asyncio.create_task(desk.send(NoticeKind.BILL, desk.facts(), p="1")) for _ in range(5)]
    await asyncio.sleep(0.02)
    assert not any(send.done() for send in sends)  # nobody hears "yes" before it is durable
    desk.log.gate.set()
    assert await asyncio.gather(*sends) == [Outcome(200)] * 5
    assert await desk.send(NoticeKind.BILL, desk.facts(), p="3") == Outcome(200)
    assert [one.cost_micros for one in desk.written] == [1_000]


async def test_a_first_caller_that_is_cancelled_leaves_the_notice_to_be_sent_again(desk: Desk) -> None:
    desk.log.gate.clear()
    first = asyncio.create_task(desk.send(NoticeKind.BILL, desk.facts(), p="1"))
    second = asyncio.create_task(desk.send(NoticeKind.BILL, desk.facts(), p="1"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second == Outcome(503)
    desk.log.gate.set()
    assert await desk.send(NoticeKind.BILL, desk.facts(), p="1") == Outcome(200)
    assert desk.leases.billed == {"b1": 1_000}


async def test_when_the_log_is_away_nothing_is_acknowledged_nor_done(desk: Desk) -> None:
    desk.log.away = True
    replies = await asyncio.gather(*(desk.send(NoticeKind.BILL, desk.facts(), p="1") for _ in range(3)))
    assert replies == [Outcome(503)] * 3
    assert desk.leases.billed == {}
    assert desk.users.records == {}
    desk.log.away = False
    assert await desk.send(NoticeKind.BILL, desk.facts(), p="1") == Outcome(200)
    assert desk.leases.billed == {"b1": 1_000}


async def test_frequency_counts_once_for_bill_and_impression(desk: Desk) -> None:
    facts = desk.facts()
    await desk.send(NoticeKind.WIN, facts)
    assert desk.users.records == {}
    await desk.send(NoticeKind.BILL, facts)
    await desk.send(NoticeKind.IMPRESSION, facts)
    record = desk.users.records["u"]
    assert has_bids(record, "b1")
    assert [line_item_id for *_, line_item_id in seen(record.exposures)] == [3]


async def test_a_click_is_remembered_of_whom_that_may_be_said(desk: Desk) -> None:
    for bid_id, personal in (("b1", True), ("b2", False)):
        facts = desk.facts(bid_id=bid_id, user_key=bid_id, personal=personal)
        assert (await desk.send(NoticeKind.CLICK, facts)).status == 410  # the ad is gone, the click is not
    assert {key: len(record.responses) for key, record in desk.users.records.items()} == {"b1": 1, "b2": 0}


async def test_no_trace_of_a_user_who_may_not_be_stored(desk: Desk) -> None:
    await desk.send(NoticeKind.BILL, desk.facts(user_key=""))
    assert desk.users.records == {}


@pytest.mark.parametrize("fault", ["unavailable", "timeout"])
async def test_a_user_store_without_an_answer_does_not_cost_the_notice_and_a_won_bid_stays_pending(
    desk: Desk, fault: str
) -> None:
    def faults() -> float:
        return REGISTRY.get_sample_value("dsp_user_faults_total", {"call": "expose", "fault": fault}) or 0.0

    facts, before = desk.facts(), faults()
    assert await desk.send(NoticeKind.WIN, facts) == Outcome(200)
    assert len(desk.pending) == 1
    desk.users.away, desk.users.silent = fault == "unavailable", 60.0
    assert await desk.send(NoticeKind.BILL, facts, p="1") == Outcome(200)
    assert desk.leases.billed == {"b1": 1_000}
    assert (faults() - before, len(desk.pending)) == (1, 1)
    desk.users.away, desk.users.silent = False, 0.0
    assert await desk.send(NoticeKind.IMPRESSION, facts) == Outcome(200)
    assert len(desk.pending) == 0  # it is in the record now


async def test_memory_of_duplicates_is_bounded() -> None:
    desk = Desk(notices_remembered_max=10)
    await desk.outbox.start()
    for number in range(30):
        await desk.send(NoticeKind.BILL, desk.facts(bid_id=f"b{number}"))
    assert await desk.send(NoticeKind.BILL, desk.facts(bid_id="b0")) == Outcome(200)
    assert len(desk.written) == 31  # forgotten, so written again; the ledger dedupes
    await desk.outbox.stop(1.0)


async def test_an_exchange_that_is_gone_bills_nothing(desk: Desk) -> None:
    for price in ("1", ""):
        assert await desk.send(NoticeKind.BILL, desk.facts("vanished"), p=price) == Outcome(400)
    assert await desk.send(NoticeKind.LOSS, desk.facts("vanished"), p="1") == Outcome(200)


async def test_a_click_that_leads_elsewhere_is_counted_and_leads_nowhere(desk: Desk) -> None:
    desk.serve()
    facts = desk.facts(creative_id=100)
    assert await desk.send(NoticeKind.CLICK, facts, r="0") == Outcome(200)
    assert (await desk.send(NoticeKind.CLICK, facts)).status == 302  # the same click by the other way
    assert [one.kind for one in desk.written] == [NoticeKind.CLICK]


async def test_a_click_on_an_ad_of_an_exchange_that_is_gone_still_leads_somewhere(desk: Desk) -> None:
    desk.serve()
    status, location = await desk.send(NoticeKind.CLICK, desk.facts("vanished", creative_id=100))
    assert (status, location.startswith(LANDING)) == (302, True)
    assert [one.kind for one in desk.written] == [NoticeKind.CLICK]
