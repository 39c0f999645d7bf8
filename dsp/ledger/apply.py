"""What an event means in the book. A pure function of the event and of its place in the log."""

from dsp.events.schema import BidsSent, Notice, NoticeKind
from dsp.kernel.clock import MS_PER_HOUR
from dsp.kernel.money import Micros
from dsp.ledger.book import Entry, Release, Response, Transaction
from dsp.ledger.terms import closes_ms

_RESPONSES = (NoticeKind.CLICK, NoticeKind.CONVERSION)


def entry(notice: Notice | BidsSent, appended_ms: int) -> Entry | None:
    """Return what is to be entered for a notice that the log has stamped `appended_ms`; None for nothing.

    Counts of bids are entered as they are.

    A billing notice is late when it came into the log at `closes_ms` or later: the bid's reservation may be free by
    then, so its lease must not pay; the budgets may, where they have room besides (`claim_micros`). The stamp decides,
    not the clock of the process that received it (which says what it thinks in `late`), because the watermark that
    frees reservations is measured on the same scale. What exceeds the reservation no budget pays.
    """
    if isinstance(notice, BidsSent):
        return notice
    facts = notice.facts
    closing_ms = closes_ms(facts.expires_at_ms)
    if notice.kind is NoticeKind.LOSS:
        return Release(facts.bid_id, closing_ms) if appended_ms < closing_ms else None
    if notice.kind in _RESPONSES:
        return _response(notice) if facts.cost_micros_max > 0 else None  # a test reserves nothing, and counts nowhere
    if notice.cost_micros <= 0:
        return None
    payable: Micros = min(notice.cost_micros, max(0, facts.cost_micros_max))
    charged = payable if appended_ms < closing_ms else 0
    return Transaction(
        exchange=facts.exchange,
        auction_id=facts.auction_id,
        imp_id=facts.imp_id,
        kind=notice.kind.value,
        bid_id=facts.bid_id,
        at_ms=notice.at_ms,
        appended_ms=appended_ms,
        advertiser_id=facts.advertiser_id,
        campaign_id=facts.campaign_id,
        line_item_id=facts.line_item_id,
        creative_id=facts.creative_id,
        day=facts.day,
        hour=facts.bid_at_ms // MS_PER_HOUR,
        lease_id=facts.lease_id,
        charged_micros=charged,
        late_micros=notice.cost_micros - charged,
        claim_micros=payable - charged,
        value_micros=facts.value_micros,
    )


def _response(notice: Notice) -> Response:
    facts = notice.facts
    return Response(
        bid_id=facts.bid_id,
        kind=notice.kind.value,
        conversion_rule_id=notice.conversion_rule_id or 0,
        at_ms=notice.at_ms,
        advertiser_id=facts.advertiser_id,
        campaign_id=facts.campaign_id,
        line_item_id=facts.line_item_id,
        creative_id=facts.creative_id,
        exchange=facts.exchange,
        day=facts.day,
        hour=facts.bid_at_ms // MS_PER_HOUR,
        value_micros=notice.value_micros or 0,
    )
