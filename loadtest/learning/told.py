"""What notices tell of the impressions that were won, and what the bidder remembers of people by them."""

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from math import exp
from pathlib import Path
from typing import NamedTuple

from dsp.cache.local import LocalUserStore
from dsp.catalog.user import UserRecord
from dsp.events.schema import BidFacts, Notice, NoticeKind
from loadtest.draw import Draw
from loadtest.learning.supply import Supply
from models.features.encode import ad_categories

_EXPIRES_MS = 60_000
_SHOWN_MS = (200, 5_000)
_CLICK_MS = (1_000, 30_000)
#: Conversions come late, log-normally: half of them within so long of the click, one in six after 4.5 times that.
_CONVERSION_MEDIAN_MS = 1_800_000
_CONVERSION_SPREAD = 1.5


class Placed(NamedTuple):
    """A bid: on which impression, of which candidate, and what came of it; a lost one costs nothing."""

    chance: int
    candidate: int
    bid_micros_cpm: int
    won: bool
    cost_micros: int = 0
    clicked: bool = False
    converted: bool = False


def facts_of(supply: Supply, win: Placed) -> BidFacts:
    """Return the facts of a bid that won."""
    chance, row = supply.chances[win.chance], int(supply.rows[win.candidate])
    line_item, advertiser = supply.snapshot.line_items[row], supply.snapshot.advertisers[row]
    creative = supply.snapshot.creatives[int(supply.creatives[win.candidate])]
    return BidFacts(
        exchange=chance.exchange, auction_id=chance.auction_id, imp_id=chance.slot.imp_id,
        bid_id=f"{chance.auction_id}/{chance.slot.imp_id}", advertiser_id=advertiser.id,
        campaign_id=line_item.campaign_id, line_item_id=line_item.id, creative_id=creative.id,
        price_micros_cpm=win.bid_micros_cpm, cost_micros_max=win.cost_micros, currency="USD", rate=1.0,
        bid_at_ms=chance.at_ms, expires_at_ms=chance.at_ms + _EXPIRES_MS, lease_id="", day=0,
        user_key=chance.user_key, category=next(iter(ad_categories(creative, advertiser)), ""),
        personal=chance.personal,
    )  # fmt: skip


def notices_of(facts: BidFacts, win: Placed, seed: int) -> list[Notice]:
    """Return what will be told of an impression that was won, each notice at its own time."""
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


class Memory:
    """People's records, made of notices as they come."""

    def __init__(self, told: Iterable[Notice]) -> None:
        self._users = LocalUserStore(Path("never-opened.db"), window_ms=lambda: 0)  # a day is kept in any case
        self._coming: list[tuple[int, int, Notice]] = []
        self._order = count()
        self.expect(told)

    def expect(self, told: Iterable[Notice]) -> None:
        """Take notices that are still to come."""
        for notice in told:
            heappush(self._coming, (notice.at_ms, next(self._order), notice))

    def hear(self, now_ms: int) -> None:
        """Remember what has been told before an instant."""
        while self._coming and self._coming[0][0] < now_ms:
            self._users.absorb([heappop(self._coming)[2]], {})

    def get(self, user_key: str) -> UserRecord | None:
        """Return a person's record; None without a key and for strangers."""
        return self._users.get(user_key) if user_key else None
