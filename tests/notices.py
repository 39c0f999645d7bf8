"""One bid's facts, and notices of bids like it, for tests that need some."""

from typing import Any

import msgspec

from dsp.events.schema import BidCount, BidFacts, BidsSent, Notice, NoticeKind

FACTS = BidFacts(
    exchange="exchange",
    auction_id="auction-1",
    imp_id="1",
    bid_id="bid-1",
    advertiser_id=1,
    campaign_id=2,
    line_item_id=3,
    creative_id=4,
    price_micros_cpm=100_000,
    cost_micros_max=100,
    currency="USD",
    rate=1.0,
    bid_at_ms=1_000,
    expires_at_ms=61_000,
    lease_id="7-3-20000",
    day=20_000,
    value_micros=7,
)


def notice(
    number: int = 1, kind: NoticeKind = NoticeKind.BILL, cost_micros: int = 80, *, late: bool = False, **facts: Any
) -> Notice:
    """Return a notice of bid `number`, with some of its facts replaced; a late one's bid expired long ago."""
    given = (
        {"auction_id": f"auction-{number}", "bid_id": f"bid-{number}"} | facts | ({"expires_at_ms": 0} if late else {})
    )
    return Notice(
        kind=kind,
        facts=msgspec.structs.replace(FACTS, **given),
        at_ms=5_000,
        cost_micros=cost_micros if kind is not NoticeKind.LOSS else 0,
        late=late,
    )


def bids_sent(number: int, bids: int, sender: str = "bidder", at_ms: int = 5_000, **count: Any) -> BidsSent:
    """Return a sender's record `number`, which counts bids like the one that notices are of."""
    owner = (FACTS.advertiser_id, FACTS.campaign_id, FACTS.line_item_id)
    made = BidCount(*owner, FACTS.creative_id, FACTS.exchange, FACTS.day, 0, bids)
    return BidsSent(sender=sender, number=number, at_ms=at_ms, counts=(msgspec.structs.replace(made, **count),))
