"""One impression's candidates once priced, and the offer made of the best: its facts for notices and for the log."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from bidder.state import ServingState
from dsp.catalog.entities import Advertiser, Creative, LineItem
from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import Exposure
from dsp.events.schema import Bid, BidFacts
from dsp.frequency.evidence import exposure_at
from dsp.funnel import Selection
from dsp.kernel.money import IMPRESSIONS_PER_MILLE, Micros
from dsp.openrtb.names import domain
from dsp.openrtb.opportunity import DealOffer, Opportunity
from dsp.pricing.explore import UNMOVED, Jitter
from models.features.encode import tier_one
from models.features.logged import pack


class Candidates(msgspec.Struct, frozen=True, gc=False):
    """One impression's candidates, scored and priced; arrays of shape (K,)."""

    selection: Selection
    pctr: NDArray[np.float64]
    pcvr: NDArray[np.float64]
    value_micros_cpm: NDArray[np.float64]
    multiplier: NDArray[np.float64]  # what pacing leaves of the value; 0 keeps it out
    price_micros_cpm: NDArray[np.int64]  # 0 must not bid
    request_features: NDArray[np.int64]  # (R,)
    jitter: Jitter = UNMOVED  # of the first prices among them

    def preferred(self) -> Iterator[int]:
        """Yield the candidates that may bid, best first: those in a deal (OpenRTB 2.6, 7.3), then by price."""
        deals = self.selection.deals
        no_deals = deals.count(None) == len(deals)
        if no_deals:  # the best, which seldom lacks money, is found without sorting the others
            best = int(self.price_micros_cpm.argmax())
            if self.price_micros_cpm[best]:
                yield best
        prices: list[int] = self.price_micros_cpm.tolist()
        ranked = sorted(range(len(prices)), key=prices.__getitem__, reverse=True)
        if no_deals:
            del ranked[0]
        else:
            ranked.sort(key=lambda number: deals[number] is None)
        yield from (number for number in ranked if prices[number])

    def place(self, take: Callable[["Candidates", int, bool], Micros | None]) -> bool:
        """Bid with the one that can pay most; return whether any can pay at all.

        `take(candidates, number, again)` reserves one's maximum cost and returns None, or all the money that it has if
        that is too little. Such a one bids what it has, unless another bids more: then it is taken `again`.
        """
        floors, deals, prices = self.selection.floors_micros_cpm, self.selection.deals, self.price_micros_cpm
        short, most = 0, 0
        for number in self.preferred():
            if most and (prices[number] <= most or (deals[short] is not None and deals[number] is None)):
                break
            money = take(self, number, False)
            if money is None:
                return True
            price = money * IMPRESSIONS_PER_MILLE
            if price > most and price >= floors[number]:
                short, most = number, price
        return most > 0 and take(self._cut(short, most), short, True) is None

    def _cut(self, number: int, price_micros_cpm: Micros) -> "Candidates":
        prices = self.price_micros_cpm.copy()
        prices[number] = price_micros_cpm
        return msgspec.structs.replace(self, price_micros_cpm=prices, jitter=UNMOVED)  # no lot has decided this price

    def refusal(self) -> Exclusion:
        """Return why none of them bids: no money, no value, pacing, or too little for the floor."""
        if (self.price_micros_cpm > 0).any():
            return Exclusion.BUDGET
        valued = self.value_micros_cpm > 0.0
        if (valued & (self.multiplier == 0.0)).any():
            return Exclusion.THROTTLED
        return Exclusion.BELOW_FLOOR if valued.any() else Exclusion.WORTHLESS


class Offer(msgspec.Struct, frozen=True, gc=False):
    """A candidate that has won among ours and whose maximum cost is reserved."""

    opportunity: Opportunity
    advertiser: Advertiser
    line_item: LineItem
    creative: Creative
    deal: DealOffer | None
    facts: BidFacts
    price_micros_cpm: int  # what is bid; the facts of a test say 0 instead
    record: Bid  # for the event log

    @property
    def exposure(self) -> Exposure:
        """Return the impression that this bid may become."""
        return exposure_at(self.facts, self.facts.bid_at_ms)


def apart(opportunity: Opportunity, offers: Sequence[Offer]) -> Opportunity:
    """Return the opportunity without the advertisers that bid for another slot of its pod.

    A pod's ads are shown in a row, and its seller takes one of an advertiser (OpenRTB 2.6, 3.2.7 `poddedupe`).
    """
    if not opportunity.pod:
        return opportunity
    others = [domain(offer.advertiser.domain) for offer in offers if offer.opportunity.pod == opportunity.pod]
    if not others:
        return opportunity
    return msgspec.structs.replace(opportunity, blocked_advertisers=opportunity.blocked_advertisers.union(others))


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """Whose money is set aside for a bid, and until when."""

    bid_id: str
    lease_id: str
    day: int
    cost_micros: int
    at_ms: int
    expires_at_ms: int


def make_offer(
    state: ServingState, opportunity: Opportunity, candidates: Candidates, number: int, reservation: Reservation
) -> Offer:
    """Return the offer of one candidate with its facts and its record for the log."""
    snapshot, selection = state.served.snapshot, candidates.selection
    row, index = selection.line_items.item(number), selection.creatives.item(number)
    line_item, price_micros_cpm = snapshot.line_items[row], candidates.price_micros_cpm.item(number)
    advertiser, creative = snapshot.advertisers[row], snapshot.creatives[index]
    value_micros_cpm = candidates.value_micros_cpm.item(number)
    facts = BidFacts(
        exchange=opportunity.exchange,
        auction_id=opportunity.auction_id,
        imp_id=opportunity.imp_id,
        bid_id=reservation.bid_id,
        advertiser_id=advertiser.id,
        campaign_id=line_item.campaign_id,
        line_item_id=line_item.id,
        creative_id=creative.id,
        # A test may be answered and must never be billed: its notices can charge nothing.
        price_micros_cpm=0 if opportunity.test else price_micros_cpm,
        cost_micros_max=reservation.cost_micros,
        currency=opportunity.currency,
        rate=opportunity.currency_rate,
        bid_at_ms=reservation.at_ms,
        expires_at_ms=reservation.expires_at_ms,
        lease_id=reservation.lease_id,
        day=reservation.day,
        user_key=opportunity.user_key if opportunity.may_store else "",
        value_micros=0 if opportunity.test else round(value_micros_cpm / IMPRESSIONS_PER_MILLE),
        category=_category(creative.categories or advertiser.categories),
        personal=opportunity.may_personalise,
    )
    deal, first_price = selection.deals[number], selection.first_price.item(number)
    jitter = candidates.jitter if first_price else UNMOVED
    record = Bid(
        facts=facts,
        ad_features=pack(state.served.ad_rows[index]),
        pctr=candidates.pctr.item(number),
        pcvr=candidates.pcvr.item(number),
        value_micros_cpm=int(value_micros_cpm),
        floor_micros_cpm=selection.floors_micros_cpm.item(number),
        first_price=first_price,
        pacing_multiplier=candidates.multiplier.item(number),
        request_features=pack(candidates.request_features),
        deal_id=deal.id if deal is not None else "",
        jitter=jitter.factor,
        propensity=jitter.propensity,
    )
    return Offer(opportunity, advertiser, line_item, creative, deal, facts, price_micros_cpm, record)


@lru_cache(maxsize=4_096)
def _category(categories: tuple[str, ...]) -> str:
    """Return the first that the ad's features say of its categories."""
    return min(map(tier_one, categories), default="")
