"""The targeting index of a snapshot: every rule compiled to bitmaps over line items, and recall as their AND.

What it costs follows the number of dimensions and words, not of line items that pass. Creatives are match.py's.
"""

from collections.abc import Hashable, Sequence
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
from dsp.targeting.deals import AdvertiserDomains, DealTable, Way, domain_and_parents
from dsp.targeting.match import Matcher, category_and_parents, slot_of, slots_of
from dsp.targeting.memo import Memo
from dsp.targeting.rows import Conditions, Parts, compress, expand, holders, known, union

_VALUES = (
    Dimension.EXCHANGE, Dimension.COUNTRY, Dimension.REGION, Dimension.CITY, Dimension.POSTCODE, Dimension.DEVICE,
    Dimension.OS, Dimension.BROWSER, Dimension.INVENTORY, Dimension.BUNDLE, Dimension.PLACEMENT, Dimension.PUBLISHER,
    Dimension.LANGUAGE,
)  # fmt: skip
_LIFE = (Exclusion.INACTIVE, Exclusion.OUT_OF_FLIGHT, Exclusion.DAYPART)
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
    """Compiled targeting. Immutable but for what is remembered of the present minute; `memo` is the funnel's."""

    def __init__(
        self, entities: Entities, flight_start_ms: NDArray[np.int64], flight_end_ms: NDArray[np.int64]
    ) -> None:
        items = entities.line_items
        self._nobody = bitmap.zeros(len(items))
        self.calendar = Calendar(
            flight_start_ms,
            flight_end_ms,
            [item.dayparts for item in items],
            [advertiser.timezone for advertiser in entities.advertisers],
        )
        self._active = bitmap.from_mask(_active(entities))
        self._domains = AdvertiserDomains([advertiser.domain for advertiser in entities.advertisers])
        self._advertisers_named = frozenset(self._domains.unblocked)
        self.deals = DealTable(_clauses(items, Dimension.DEAL), entities.deals, self._domains, len(items))
        servable = [
            _servable(items[row], one)
            for one, row in zip(entities.creatives, entities.creative_line_items, strict=True)
        ]
        categories = [
            frozenset(one.categories + entities.advertisers[row].categories)
            for one, row in zip(entities.creatives, entities.creative_line_items, strict=True)
        ]
        self.matcher = Matcher(entities.creatives, categories, servable)
        self._compile(entities, servable)
        self.memo = Memo()
        parts = tuple((reason, self._active) for reason in _LIFE)
        self._live_memo: tuple[Parts, Words] = (parts, self._active)

    def conditions(
        self, opportunity: Opportunity, segments: frozenset[str], ways: Sequence[Way], now_ms: int
    ) -> Conditions:
        """Return the conditions on line items that can bind.

        `segments` are all that is known of the user, `ways` come from `deals.ways`.
        """
        out = Conditions()
        self._require_live(now_ms, out)
        out.reasons += self._value_reasons
        out.rows += [expand(row_of(value_of(opportunity), default)) for value_of, row_of, default in self._values]
        self._supply(opportunity, out)
        if self._domain_rules is not None:
            self._domain_rules.require(Exclusion.DOMAIN, domain_and_parents(opportunity.domain), out)
        if self._category_rules is not None:
            self._category_rules.require(Exclusion.CATEGORY, _with_parents(opportunity.categories), out)
        for table in self._segment_rules:
            table.require(Exclusion.SEGMENT, segments, out)
        self._require_way(ways, out)
        for name in opportunity.blocked_advertisers & self._domains.unblocked.keys():
            out.require(Exclusion.ADVERTISER_BLOCKED, expand(self._domains.unblocked[name]))
        return out

    def key(self, opportunity: Opportunity, segments: frozenset[str], ways: Sequence[Way]) -> Hashable:
        """Return a key that is equal only for impressions with equal conditions, but for the time; arguments as above.

        Values that no clause names are like none, so a key is made of rows and of names that the catalogue knows:
        there are few, and they are short.
        """
        sizes = self._sizes_named.intersection(opportunity.sizes)
        return (
            # A row lives as long as the index: its id names it.
            *[id(row_of(value_of(opportunity), default)) for value_of, row_of, default in self._values],
            opportunity.formats,
            sizes,
            self._sizes_named.issuperset(opportunity.sizes),
            self._domain_rules and self._domain_rules.named & domain_and_parents(opportunity.domain),
            self._category_rules and self._category_rules.named & _with_parents(opportunity.categories),
            *[table.named & segments for table in self._segment_rules],
            *[
                way.offer and (way.offer.id, known(way.offer.advertiser_domains, self._advertisers_named))
                for way in ways
            ],
            opportunity.blocked_advertisers & self._advertisers_named,
        )

    def live(self, now_ms: int) -> Words:
        """Return the line items that are active, in flight and in a daypart: one object while nothing changes."""
        return self._lives(now_ms)[1]

    def _require_live(self, now_ms: int, out: Conditions) -> None:
        out.parts, live = self._lives(now_ms)
        out.require(Exclusion.INACTIVE, live)

    def _lives(self, now_ms: int) -> tuple[Parts, Words]:
        """Three conditions and the row they fold into, which is remembered as long as they are."""
        flight, daypart = self.calendar.in_flight(now_ms), self.calendar.in_daypart(now_ms)
        parts, live = self._live_memo
        if parts[1][1] is not flight or parts[2][1] is not daypart:
            parts = tuple(zip(_LIFE, (self._active, flight, daypart), strict=True))
            live = self._active & flight & daypart
            self._live_memo = (parts, live)
        return parts, live

    def _supply(self, opportunity: Opportunity, out: Conditions) -> None:
        """A creative of a format that the impression offers, and one of a size."""
        formats, slots = self._formats, self._slots
        rows = [formats[kind] for kind in opportunity.formats if kind in formats]
        out.require(Exclusion.FORMAT, union(rows) if rows else self._nobody)
        rows = [slots[slot] for slot in slots_of(opportunity, self._banner_slots) if slot in slots]
        out.require(Exclusion.SIZE, union(rows) if rows else self._nobody)
        if self._size_rules is not None:
            sizes = [f"{width}x{height}" for width, height in opportunity.sizes]
            out.require(Exclusion.SIZE, self._size_rules.admitting(sizes))

    def _require_way(self, ways: Sequence[Way], out: Conditions) -> None:
        out.require(Exclusion.DEAL, union([way.line_items for way in ways]) if ways else self._nobody)

    def _compile(self, entities: Entities, servable: Sequence[bool]) -> None:
        """Compile what conditions looks up; dimensions that no clause names are left out."""
        items = entities.line_items
        size = len(items)

        def traits(dimension: Dimension) -> TraitTable | None:
            clauses = _clauses(items, dimension)
            return TraitTable(clauses, size) if clauses else None

        tables = {
            dimension: ValueTable(clauses, size) for dimension in _VALUES if (clauses := _clauses(items, dimension))
        }
        self._value_reasons = [_REASONS[dimension.value] for dimension in tables]
        self._values = [
            (attrgetter(dimension.value), table.rows.get, table.default) for dimension, table in tables.items()
        ]
        size_clauses = _clauses(items, Dimension.SIZE)
        self._size_rules = OfferTable(size_clauses, size) if size_clauses else None
        self._domain_rules, self._category_rules = traits(Dimension.DOMAIN), traits(Dimension.CATEGORY)
        self._segment_rules = _segment_rules(items, traits(Dimension.SEGMENT), size)
        shown = [
            (one, row)
            for one, row, good in zip(entities.creatives, entities.creative_line_items, servable, strict=True)
            if good
        ]
        self._formats = {
            kind: compress(rows, self._nobody)
            for kind, (rows,) in holders(size, ((one.format.value, row) for one, row in shown))
        }
        self._slots = {
            slot: compress(rows, self._nobody)
            for slot, (rows,) in holders(size, ((slot_of(one), row) for one, row in shown))
        }
        self._banner_slots = [slot for slot in self._slots if slot[0] == MediaFormat.BANNER]
        ruled = [_sides(size) for clause in size_clauses.values() for size in clause.include + clause.exclude]
        self._sizes_named = frozenset([*ruled, *[slot[1:] for slot in self._banner_slots]])


def _sides(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


def _clauses(items: Sequence[LineItem], dimension: Dimension) -> Clauses:
    return {
        row: clause
        for row, item in enumerate(items)
        if (clause := item.targeting.clauses.get(dimension)) is not None and (clause.include or clause.exclude)
    }


def _segment_rules(items: Sequence[LineItem], clauses: TraitTable | None, size: int) -> list[TraitTable]:
    """The clauses on segments, then one table for the first, second, ... group of every audience."""
    tables = [clauses] if clauses is not None else []
    places = max((len(item.targeting.audience) for item in items), default=0)
    for place in range(places):
        groups = {
            row: item.targeting.audience[place]
            for row, item in enumerate(items)
            if place < len(item.targeting.audience)
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


def _with_parents(categories: frozenset[str]) -> frozenset[str]:
    return frozenset([name for category in categories for name in category_and_parents(category)])
