"""Which notices prove that a user saw an impression, and when it was."""

from dsp.catalog.user import Exposure
from dsp.events.schema import BidFacts, Notice, NoticeKind

#: The exchange says that it may be charged for, the user's browser that it was shown, or that it was clicked.
_PROOFS = frozenset({NoticeKind.BILL, NoticeKind.IMPRESSION, NoticeKind.CLICK})


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
