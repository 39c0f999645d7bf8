"""One bid, decisions and notices of bids like it, for tests that need some."""

from typing import Any

import msgspec

from dsp.events.schema import Bid, BidCount, BidFacts, BidsSent, Decision, Notice, NoticeKind
from models.features.columns import FEATURE_HASH

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
BID = Bid(
    facts=FACTS, ad_features=b"", request_features=b"", pctr=0.01, pcvr=0.05, value_micros_cpm=1, floor_micros_cpm=1,
    first_price=True, pacing_multiplier=1.0,
)  # fmt: skip


def decision(*bids: Bid, feature_hash: str = FEATURE_HASH) -> Decision:
    """Return the decision that made these bids of one auction."""
    facts = bids[0].facts
    return Decision(
        auction_id=facts.auction_id, exchange=facts.exchange, at_ms=facts.bid_at_ms, bids=bids, snapshot_version="s",
        model_version="prior", feature_hash=feature_hash,
    )  # fmt: skip


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
