"""Which notices prove that a user saw an impression, and when it was; and what they tell of what he did with it."""

from dsp.catalog.user import Exposure, Response
from dsp.events.schema import BidFacts, Notice, NoticeKind

#: The exchange says that it may be charged for, the user's browser that it was shown, or that it was clicked.
_PROOFS = frozenset({NoticeKind.BILL, NoticeKind.IMPRESSION, NoticeKind.CLICK})
_RESPONSES = frozenset({NoticeKind.CLICK, NoticeKind.CONVERSION})


def exposure_of(notice: Notice) -> tuple[str, Exposure] | None:
    """Return the user and the impression that a notice proves; None where it proves none or there is no user to count.

    A win proves an impression only where the exchange bills on it. A test (its price is 0) is nobody's impression.

    The impression is dated at the notice's arrival, the latest it can have been, and never after the bid's expiry, by
    when it must have been shown (OpenRTB `exp`): a notice that comes late does not move it into a later window.
    """
    facts = notice.facts
    if not facts.user_key or facts.price_micros_cpm <= 0 or (notice.kind not in _PROOFS and notice.cost_micros <= 0):
        return None
    return facts.user_key, exposure_at(facts, min(notice.at_ms, facts.expires_at_ms))


def exposure_at(facts: BidFacts, at_ms: int) -> Exposure:
    """Return the impression of a bid at a time."""
    return Exposure(facts.bid_id, at_ms, facts.advertiser_id, facts.campaign_id, facts.line_item_id)


def response_of(notice: Notice) -> tuple[str, Response] | None:
    """Return the user and what a click or conversion tells of him; None where it is neither or must not be kept.

    It is a profile, so it is kept only where the request's signals allowed to personalise. It is dated at the notice's
    arrival, when it was known, so that no model learns from what came later.
    """
    facts = notice.facts
    if notice.kind not in _RESPONSES or not facts.user_key or not facts.personal or facts.price_micros_cpm <= 0:
        return None
    clicked_ms, converted_ms = (notice.at_ms, 0) if notice.kind is NoticeKind.CLICK else (0, notice.at_ms)
    ids = facts.advertiser_id, facts.campaign_id, facts.creative_id
    return facts.user_key, Response(facts.bid_id, *ids, facts.category, clicked_ms, converted_ms)
