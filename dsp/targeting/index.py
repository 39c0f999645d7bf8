"""The targeting index of a snapshot: every rule compiled to bitmaps over line items, and recall as their AND.

What it costs follows the number of dimensions and words, not of line items that pass. Creatives are match.py's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import Advertiser, Campaign, Creative, Deal, LineItem, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.catalog.rules import Clause, Dimension
from dsp.catalog.status import Status, effective
from dsp.openrtb.opportunity import Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.calendar import Calendar
from dsp.targeting.clauses import Clauses, OfferTable, TraitTable, ValueTable
from dsp.targeting.deals import AdvertiserDomains, DealTable, Way
from dsp.targeting.match import Matcher, Slot, category_and_parents, slot_of, slots_of

#: How a reason's row is looked up for one opportunity and the user's segments.
Lookup = Callable[[Opportunity, frozenset[str]], Words]

_VALUES = (
    Dimension.EXCHANGE, Dimension.COUNTRY, Dimension.REGION, Dimension.CITY, Dimension.POSTCODE, Dimension.DEVICE,
    Dimension.OS, Dimension.BROWSER, Dimension.INVENTORY, Dimension.BUNDLE, Dimension.PLACEMENT, Dimension.PUBLISHER,
    Dimension.LANGUAGE,
)  # fmt: skip
_REASONS = {reason.value: reason for reason in Exclusion}


@dataclass(frozen=True, slots=True)
class Entities:
    """What an index is built of, aligned: line item i belongs to campaigns[i] and advertisers[i]."""

    line_items: Sequence[LineItem]
    campaigns: Sequence[Campaign]
    advertisers: Sequence[Advertiser]
    creatives: Sequence[Creative]
    creative_line_items: Sequence[int]  # row of each creative's line item
    deals: Sequence[Deal]


class Index:
    """Compiled targeting. Immutable but for what the calendar remembers of the present minute."""

    def __init__(
        self, entities: Entities, flight_start_ms: NDArray[np.int64], flight_end_ms: NDArray[np.int64]
    ) -> None:
        items = entities.line_items
        size = len(items)
        self.calendar = Calendar(
            flight_start_ms,
            flight_end_ms,
            [item.dayparts for item in items],
            [advertiser.timezone for advertiser in entities.advertisers],
        )
        self._active = bitmap.from_mask(_active(entities))
        self._domains = AdvertiserDomains([advertiser.domain for advertiser in entities.advertisers])
        self.deals = DealTable(_clauses(items, Dimension.DEAL), entities.deals, self._domains, size)
        servable = [_servable(items[row], one) for one, row in zip(entities.creatives, entities.creative_line_items,
                                                                   strict=True)]  # fmt: skip
        categories = [
            frozenset(one.categories + entities.advertisers[row].categories)
            for one, row in zip(entities.creatives, entities.creative_line_items, strict=True)
        ]
        self.matcher = Matcher(entities.creatives, categories, servable)
        self._supply = _supply(entities, servable, size)
        self._nothing = bitmap.zeros(size)
        self._lookups = self._compile(items, size)

    def rows(
        self, opportunity: Opportunity, segments: frozenset[str], ways: Sequence[Way], now_ms: int
    ) -> tuple[list[Exclusion], list[Words]]:
        """Return the reasons that can bind and the line items that pass each, in the order of the funnel.

        `segments` are all that is known of the user, `ways` come from `deals.ways`.
        """
        reasons = [Exclusion.INACTIVE, Exclusion.OUT_OF_FLIGHT, Exclusion.DAYPART]
        rows = [self._active, self.calendar.in_flight(now_ms), self.calendar.in_daypart(now_ms)]
        for reason, lookup in self._lookups:
            reasons.append(reason)
            rows.append(lookup(opportunity, segments))
        reasons.append(Exclusion.DEAL)
        rows.append(bitmap.union([way.line_items for way in ways]) if ways else self._nothing)
        if opportunity.blocked_advertisers:
            reasons.append(Exclusion.ADVERTISER_BLOCKED)
            rows.append(self._active & ~self._domains.under(opportunity.blocked_advertisers))
        return reasons, rows

    def _compile(self, items: Sequence[LineItem], size: int) -> list[tuple[Exclusion, Lookup]]:
        """Return the look-ups in the order of the funnel; dimensions that no clause names are left out."""
        lookups: dict[Exclusion, Lookup] = {Exclusion.FORMAT: self._offering, Exclusion.SIZE: self._sized(items, size)}
        for dimension in _VALUES:
            if clauses := _clauses(items, dimension):
                lookups[_REASONS[dimension.value]] = _value_lookup(ValueTable(clauses, size), dimension)
        if clauses := _clauses(items, Dimension.DOMAIN):
            domains = TraitTable(clauses, size)
            lookups[Exclusion.DOMAIN] = lambda one, _: domains.admitting(_domain_and_parents(one.domain))
        if clauses := _clauses(items, Dimension.CATEGORY):
            categories = TraitTable(clauses, size)
            lookups[Exclusion.CATEGORY] = lambda one, _: categories.admitting(_with_parents(one.categories))
        if tables := _segment_tables(items, size):
            lookups[Exclusion.SEGMENT] = lambda _, segments: bitmap.intersection(
                [table.admitting(segments) for table in tables]
            )
        order = list(Exclusion)
        return sorted(lookups.items(), key=lambda pair: order.index(pair[0]))

    def _offering(self, opportunity: Opportunity, _: frozenset[str]) -> Words:
        rows = [self._supply[kind] for kind in opportunity.formats if kind in self._supply]
        return bitmap.union(rows) if rows else self._nothing

    def _sized(self, items: Sequence[LineItem], size: int) -> Lookup:
        clauses = _clauses(items, Dimension.SIZE)
        table = OfferTable(clauses, size) if clauses else None
        supply, nothing = self._supply, self._nothing
        banner_slots = [slot for slot in supply if isinstance(slot, tuple) and slot[0] == "banner"]

        def lookup(opportunity: Opportunity, _: frozenset[str]) -> Words:
            rows = [supply[slot] for slot in slots_of(opportunity, banner_slots) if slot in supply]
            fitting = bitmap.union(rows) if rows else nothing
            if table is None:
                return fitting
            return fitting & table.admitting([f"{width}x{height}" for width, height in opportunity.sizes])

        return lookup


def _clauses(items: Sequence[LineItem], dimension: Dimension) -> Clauses:
    return {
        row: clause
        for row, item in enumerate(items)
        if (clause := item.targeting.clauses.get(dimension)) is not None and (clause.include or clause.exclude)
    }


def _value_lookup(table: ValueTable, dimension: Dimension) -> Lookup:
    value_of = attrgetter(dimension.value)
    return lambda opportunity, _: table.admitting(value_of(opportunity))


def _segment_tables(items: Sequence[LineItem], size: int) -> list[TraitTable]:
    """The clause on segments, then one table for the first, second, ... group of every audience."""
    clauses = _clauses(items, Dimension.SEGMENT)
    tables = [TraitTable(clauses, size)] if clauses else []
    groups_max = max((len(item.targeting.audience) for item in items), default=0)
    for place in range(groups_max):
        groups = {
            row: item.targeting.audience[place]
            for row, item in enumerate(items)
            if len(item.targeting.audience) > place
        }
        tables.append(TraitTable.of_groups(groups, size))
    return tables


def _active(entities: Entities) -> NDArray[np.bool_]:
    chains = zip(entities.line_items, entities.campaigns, entities.advertisers, strict=True)
    return np.array(
        [effective(*(one.status for one in chain)) is Status.ACTIVE for chain in chains],
        dtype=np.bool_,
    )


def _servable(item: LineItem, creative: Creative) -> bool:
    """Whether a creative may be shown at all: active, of a format and (banners) a size that its line item admits."""
    if creative.status is not Status.ACTIVE:
        return False
    clauses = item.targeting.clauses
    admitted = _admits(clauses.get(Dimension.FORMAT), creative.format.value)
    if creative.format is MediaFormat.BANNER:
        admitted = admitted and _admits(clauses.get(Dimension.SIZE), f"{creative.width}x{creative.height}")
    return admitted


def _admits(clause: Clause | None, value: str) -> bool:
    return clause is None or ((not clause.include or value in clause.include) and value not in clause.exclude)


def _supply(entities: Entities, servable: Sequence[bool], size: int) -> dict[str | Slot, Words]:
    """The line items that have a servable creative of a format, and for a slot."""
    members: dict[str | Slot, set[int]] = {}
    for creative, row, good in zip(entities.creatives, entities.creative_line_items, servable, strict=True):
        if good:
            members.setdefault(creative.format.value, set()).add(row)
            members.setdefault(slot_of(creative), set()).add(row)
    return {key: bitmap.from_positions(rows, size) for key, rows in members.items()}


def _with_parents(categories: frozenset[str]) -> frozenset[str]:
    return frozenset([name for category in categories for name in category_and_parents(category)])


def _domain_and_parents(domain: str) -> frozenset[str]:
    labels = domain.split(".") if domain else []
    return frozenset([".".join(labels[first:]) for first in range(len(labels))])
