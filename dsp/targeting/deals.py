"""Deals: which line items may bid through which deal that an impression offers, and which in the open auction."""

from collections.abc import Sequence
from typing import NamedTuple

from dsp.catalog.entities import AuctionType, Deal
from dsp.catalog.status import Status
from dsp.openrtb.opportunity import DealOffer, Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.clauses import Clauses, TraitTable

_FIRST_PRICE, _SECOND_PRICE = 1, 2
_FIXED_PRICE = 3  # OpenRTB 2.6, 3.2.12 `at`: the floor is the price agreed


class Way(NamedTuple):
    """One way into an impression: a deal's offer or, with `offer` None, the open auction; and who may go it."""

    offer: DealOffer | None
    floor_micros_cpm: int
    auction: int  # OpenRTB `at`: 1 first price, 2 second price, 3 fixed price
    line_items: Words


class AdvertiserDomains:
    """Line items by their advertiser's domain and every domain above it."""

    def __init__(self, domains: Sequence[str]) -> None:
        nothing = bitmap.zeros(len(domains))
        members: dict[str, list[int]] = {}
        for row, domain in enumerate(domains):
            for name in _domain_and_parents(domain):
                members.setdefault(name, []).append(row)
        self._rows = {name: bitmap.from_positions(rows, len(domains)) for name, rows in members.items()}
        self._nothing = nothing

    def under(self, names: frozenset[str]) -> Words:
        """Return the line items whose advertiser's domain is one of `names` or below one."""
        return bitmap.union([self._nothing, *[self._rows[name] for name in names & self._rows.keys()]])


class DealTable:
    """Line items by the deals that they include; those that include none bid in the open auction only."""

    def __init__(self, clauses: Clauses, deals: Sequence[Deal], domains: AdvertiserDomains, size: int) -> None:
        self._table = TraitTable(clauses, size)
        self._domains = domains
        self._nothing = bitmap.zeros(size)
        self._terms = {(deal.exchange, deal.deal_id): deal for deal in deals}
        self._named = {deal.deal_id for deal in deals}

    def ways(self, opportunity: Opportunity, seat: str) -> list[Way]:
        """Return the ways in that some line item may go, deals before the open auction, cheapest deals first.

        A deal of the catalogue counts only while it is active and only on its own exchange; a deal id that line items
        include and no deal of the catalogue describes counts on any exchange, on the exchange's terms.
        """
        ways = [way for offer in opportunity.deals if (way := self._way(offer, opportunity, seat)) is not None]
        ways.sort(key=_floor)
        if not opportunity.private_auction:
            auction = _FIRST_PRICE if opportunity.first_price else _SECOND_PRICE
            ways.append(Way(None, opportunity.floor_micros_cpm, auction, self._table.unrestricted))
        return ways

    def _way(self, offer: DealOffer, opportunity: Opportunity, seat: str) -> Way | None:
        wanting = self._table.wanting(offer.id)
        if wanting is None or (offer.seats and seat not in offer.seats):
            return None
        floor, auction = offer.floor_micros_cpm, offer.auction
        terms = self._terms.get((opportunity.exchange, offer.id))
        if terms is not None:
            if terms.status is not Status.ACTIVE:
                return None
            floor = max(floor, terms.price_micros_cpm or 0)
            auction = _FIXED_PRICE if terms.auction is AuctionType.FIXED_PRICE else auction
        elif offer.id in self._named:
            return None
        if offer.advertiser_domains:
            wanting = wanting & self._domains.under(offer.advertiser_domains)
        return Way(offer, floor, auction, wanting)


def _floor(way: Way) -> int:
    return way.floor_micros_cpm


def _domain_and_parents(domain: str) -> list[str]:
    labels = domain.lower().strip(".").removeprefix("www.").split(".")
    names = [".".join(labels[first:]) for first in range(len(labels))]
    return [*names, f"www.{names[0]}"]
