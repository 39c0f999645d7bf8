"""Deals: which line items may bid through which deal that an impression offers, and which in the open auction."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from dsp.catalog.entities import AuctionType, Deal
from dsp.catalog.status import Status
from dsp.openrtb.names import domain_and_parents
from dsp.openrtb.opportunity import DealOffer, Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.clauses import Clauses, excludes, includes, unrestricted
from dsp.targeting.rows import Row, compress, expand, holders, union

FIRST_PRICE, SECOND_PRICE = 1, 2
FIXED_PRICE = 3  # OpenRTB 2.6, 3.2.12 `at`: the floor is the price agreed


class Way(NamedTuple):
    """One way into an impression: a deal's offer or, with `offer` None, the open auction; and who may go it."""

    offer: DealOffer | None
    floor_micros_cpm: int
    auction: int  # one of the three above
    line_items: Words


class AdvertiserDomains:
    """Line items by their advertiser's domain and every domain above it."""

    def __init__(self, domains: Sequence[str]) -> None:
        size = len(domains)
        pairs = ((name, row) for row, domain in enumerate(domains) for name in domain_and_parents(domain))
        self._nobody, everyone = bitmap.zeros(size), bitmap.ones(size)
        self._under: dict[str, Row] = {}
        #: By domain, the line items that a block on it leaves.
        self.unblocked: dict[str, Row] = {}
        for name, (rows,) in holders(size, pairs):
            self._under[name] = compress(rows, self._nobody)
            self.unblocked[name] = compress(everyone & ~rows, everyone)

    def under(self, names: frozenset[str]) -> Words:
        """Return the line items whose advertiser's domain is one of `names` or below one."""
        return union([self._nobody, *[self._under[name] for name in names & self._under.keys()]])


class DealTable:
    """Line items by the deals that they include; those that include none bid in the open auction only."""

    def __init__(self, clauses: Clauses, deals: Sequence[Deal], domains: AdvertiserDomains, size: int) -> None:
        self._domains = domains
        self._open = unrestricted(clauses, size)
        nobody = bitmap.zeros(size)
        self._wanting: dict[str, Row] = {
            value: compress(included & ~excluded, nobody)
            for value, (included, excluded) in holders(size, includes(clauses), excludes(clauses))
        }
        self._terms = {(deal.exchange, deal.deal_id): deal for deal in deals}
        self._named = {deal.deal_id for deal in deals}

    def ways(self, opportunity: Opportunity, seat: str) -> list[Way]:
        """Return the ways in that some line item may go, deals before the open auction, cheapest deals first.

        A deal of the catalogue counts only while it is active and only on its own exchange; a deal id that line items
        include and no deal of the catalogue describes counts on any exchange, on the exchange's terms. An id offered
        twice counts once, so that there are never more ways than deals that line items include.
        """
        ways: list[Way] = []
        if opportunity.deals:
            offers = {offer.id: offer for offer in reversed(opportunity.deals) if offer.id in self._wanting}
            ways += [way for offer in offers.values() if (way := self._way(offer, opportunity, seat)) is not None]
            ways.sort(key=attrgetter("floor_micros_cpm"))
        if not opportunity.private_auction:
            auction = FIRST_PRICE if opportunity.first_price else SECOND_PRICE
            ways.append(Way(None, opportunity.floor_micros_cpm, auction, self._open))
        return ways

    def _way(self, offer: DealOffer, opportunity: Opportunity, seat: str) -> Way | None:
        if offer.seats and seat not in offer.seats:
            return None
        # An auction type of the exchange's own is bid on as if the winner paid its bid.
        auction = offer.auction if offer.auction in (SECOND_PRICE, FIXED_PRICE) else FIRST_PRICE
        floor = offer.floor_micros_cpm
        terms = self._terms.get((opportunity.exchange, offer.id))
        if terms is not None:
            if terms.status is not Status.ACTIVE:
                return None
            floor = max(floor, terms.price_micros_cpm or 0)
            auction = FIXED_PRICE if terms.auction is AuctionType.FIXED_PRICE else auction
        elif offer.id in self._named:
            return None
        wanting = expand(self._wanting[offer.id])
        if offer.advertiser_domains:
            wanting = wanting & self._domains.under(offer.advertiser_domains)
        return Way(offer, floor, auction, wanting)
