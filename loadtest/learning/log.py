"""The training log of a day that was bought: what the training-log worker would have written of it."""

from math import exp
from pathlib import Path

from dsp.events.schema import Bid, BidFacts, Decision, Notice, NoticeKind
from dsp.workers.hourly import HourlyFiles
from dsp.workers.training_rows import BIDS_SCHEMA, NOTICES_SCHEMA, bid_rows, notice_rows
from loadtest.draw import Draw
from loadtest.learning.play import Placed
from loadtest.learning.supply import Supply
from models.features.columns import FEATURE_HASH

_EXPIRES_MS = 60_000
_SHOWN_MS = (200, 5_000)
_CLICK_MS = (1_000, 30_000)
#: Conversions come late, log-normally: half of them within so long of the click, one in six after 4.5 times that.
_CONVERSION_MEDIAN_MS = 1_800_000
_CONVERSION_SPREAD = 1.5


def write(root: Path, supply: Supply, won: list[Placed], seed: int, end_ms: int) -> None:
    """Write impressions won and their notices until `end_ms` below `root`. Bids that lost teach nothing of people."""
    bids, notices = [], []
    for number, win in enumerate(won):
        facts, record = _bid(number, supply, win)
        at_ms = facts.bid_at_ms
        decision = Decision(
            auction_id=facts.auction_id, exchange=facts.exchange, at_ms=at_ms, bids=(record,), snapshot_version="s",
            model_version="prior", feature_hash=FEATURE_HASH,
        )  # fmt: skip
        bids += [(at_ms, row) for row in bid_rows(decision)]
        known = [notice for notice in _notices(facts, win, seed) if notice.at_ms < end_ms]
        notices += [(notice.at_ms, row) for notice in known for row in notice_rows(notice)]
    HourlyFiles(root / "bids", BIDS_SCHEMA).write(0, 0, max(len(bids) - 1, 0), bids)
    HourlyFiles(root / "notices", NOTICES_SCHEMA).write(0, 0, max(len(notices) - 1, 0), notices)


def _notices(facts: BidFacts, win: Placed, seed: int) -> list[Notice]:
    draw = Draw("delays", seed, facts.auction_id, facts.imp_id)
    shown_ms = facts.bid_at_ms + int(draw.between(*_SHOWN_MS))
    clicked_ms = shown_ms + int(draw.between(*_CLICK_MS))
    converted_ms = clicked_ms + int(_CONVERSION_MEDIAN_MS * exp(_CONVERSION_SPREAD * draw.normal()))
    found = [Notice(kind=NoticeKind.BILL, facts=facts, at_ms=shown_ms, cost_micros=win.cost_micros)]
    if win.clicked:
        found.append(Notice(kind=NoticeKind.CLICK, facts=facts, at_ms=clicked_ms))
    if win.converted:
        found.append(Notice(kind=NoticeKind.CONVERSION, facts=facts, at_ms=converted_ms))
    return found


def _bid(number: int, supply: Supply, win: Placed) -> tuple[BidFacts, Bid]:
    chance, row = supply.chances[win.chance], int(supply.rows[win.candidate])
    creative = int(supply.creatives[win.candidate])
    line_item = supply.snapshot.line_items[row]
    facts = BidFacts(
        exchange=chance.exchange, auction_id=chance.auction_id, imp_id=chance.slot.imp_id, bid_id=str(number),
        advertiser_id=supply.snapshot.advertisers[row].id, campaign_id=line_item.campaign_id,
        line_item_id=line_item.id, creative_id=supply.snapshot.creatives[creative].id,
        price_micros_cpm=win.bid_micros_cpm, cost_micros_max=win.cost_micros, currency="USD", rate=1.0,
        bid_at_ms=chance.at_ms, expires_at_ms=chance.at_ms + _EXPIRES_MS, lease_id="", day=0,
    )  # fmt: skip
    record = Bid(
        facts=facts, ad_features=supply.ads[creative].astype("<i8").tobytes(),
        request_features=supply.requests[win.chance].astype("<i8").tobytes(),
        pctr=0.0, pcvr=0.0, value_micros_cpm=0,
        floor_micros_cpm=int(supply.floors[win.candidate]), first_price=bool(supply.first_price[win.candidate]),
        pacing_multiplier=1.0,
    )  # fmt: skip
    return facts, record
