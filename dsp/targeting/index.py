"""The targeting index of a snapshot: every rule compiled to bitmaps over line items, and recall as their AND.

What it costs follows the number of groups and words, not of line items that pass. Creatives are match.py's.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import Advertiser, Campaign, Creative, Deal, LineItem, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.catalog.rules import Clause, Dimension
from dsp.catalog.status import Status, effective
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits
from dsp.targeting.calendar import Calendar
from dsp.targeting.clauses import Clauses, OfferTable, TraitTable, ValueTable
from dsp.targeting.creatives import Owners
from dsp.targeting.deals import AdvertiserDomains, DealTable
from dsp.targeting.groups import Advertisers, Asked, Audience, Inventory, Rule, Supply, Values, Ways
from dsp.targeting.match import Matcher
from dsp.targeting.rows import Conditions, compress, holders
from dsp.targeting.slots import slot_of

_PLACE = (Dimension.EXCHANGE, Dimension.COUNTRY, Dimension.REGION, Dimension.CITY, Dimension.POSTCODE)
_DEVICE = (Dimension.DEVICE, Dimension.OS, Dimension.BROWSER)
_INVENTORY = (Dimension.INVENTORY, Dimension.BUNDLE, Dimension.PLACEMENT, Dimension.PUBLISHER)
_LANGUAGE = (Dimension.LANGUAGE,)
#: Impressions remembered, for the index that comes after.
_ASKED = 64


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
    """Compiled targeting. Immutable but for what is remembered: the present minute, rows of groups, reasons, and who
    asked last."""

    def __init__(
        self, entities: Entities, flight_start_ms: NDArray[np.int64], flight_end_ms: NDArray[np.int64]
    ) -> None:
        items = entities.line_items
        self._size = len(items)
        self.calendar = Calendar(
            flight_start_ms,
            flight_end_ms,
            [item.dayparts for item in items],
            [advertiser.timezone for advertiser in entities.advertisers],
        )
        self.active = bitmap.from_mask(_active(entities))
        domains = AdvertiserDomains([advertiser.domain for advertiser in entities.advertisers])
        self.deals = DealTable(_clauses(items, Dimension.DEAL), entities.deals, domains, len(items))
        owned = list(zip(entities.creatives, entities.creative_line_items, strict=True))
        servable = [_servable(items[row], one) for one, row in owned]
        categories = [frozenset(one.categories + entities.advertisers[row].categories) for one, row in owned]
        owners = Owners(entities.creative_line_items, len(items))
        self.matcher = Matcher(entities.creatives, categories, servable, owners)
        self._rules = _rules(items, domains, [pair for pair, good in zip(owned, servable, strict=True) if good])
        self._live_memo = (self.active, self.active, bitmap.to_bits(self.active))
        self._asked: deque[Asked] = deque(maxlen=_ASKED)

    def with_active(self, active: NDArray[np.bool_]) -> "Index":
        """Return the index with other line items active, bool (N,); rules and what is remembered of them are shared."""
        other = copy(self)
        other.active = bitmap.from_mask(active)
        other._live_memo = (other.active, other.active, bitmap.to_bits(other.active))
        return other

    def recall(self, asked: Asked, now_ms: int) -> Bits | Exclusion:
        """Return the line items for which every condition holds, or the reason, in the order of the funnel, that loses
        the last of them.
        """
        self._asked.append(asked)
        left = self._live(now_ms)
        if not left:
            return self._why_nobody_lives(now_ms)
        for rule in self._rules:  # in the funnel's order, so the first that leaves nothing holds the reason
            before, row = left, rule.row(asked)
            left &= row.line_items
            if not left:
                return rule.lost(asked, row, before)
        return left

    def follow(self, before: "Index") -> Iterator[None]:
        """Work out the rows of what another index, of which others may ask meanwhile, was asked last: one impression a
        step, each less than a millisecond. Before this one is asked itself.
        """
        for asked in list(before._asked):
            known = asked._replace(ways=self.deals.ways(asked.opportunity, asked.seat))
            self._asked.append(known)
            for rule in self._rules:
                rule.row(known)
            self.matcher.rows(known.opportunity)
            yield

    def conditions(self, asked: Asked, now_ms: int) -> Conditions:
        """Return one by one the conditions that `recall` folds together."""
        out = Conditions()
        self._require_live(now_ms, out)
        for rule in self._rules:
            rule.require(asked, out)
        return out

    def _live(self, now_ms: int) -> Bits:
        """The line items that are active, in flight and in a daypart."""
        flight, daypart = self.calendar.in_flight(now_ms), self.calendar.in_daypart(now_ms)
        memo = self._live_memo
        if memo[0] is not flight or memo[1] is not daypart:
            memo = self._live_memo = (flight, daypart, bitmap.to_bits(self.active & flight & daypart))
        return memo[2]

    def _why_nobody_lives(self, now_ms: int) -> Exclusion:
        if not self._size:
            return Exclusion.NO_CANDIDATE
        out = Conditions()
        self._require_live(now_ms, out)
        left = self.active
        for reason, words in out.in_order():
            left = left & words
            if not left.any():
                return reason
        raise AssertionError("line items are left where nobody lives")

    def _require_live(self, now_ms: int, out: Conditions) -> None:
        out.require(Exclusion.INACTIVE, self.active)
        out.require(Exclusion.OUT_OF_FLIGHT, self.calendar.in_flight(now_ms))
        out.require(Exclusion.DAYPART, self.calendar.in_daypart(now_ms))


def _rules(items: Sequence[LineItem], domains: AdvertiserDomains, shown: Sequence[tuple[Creative, int]]) -> list[Rule]:
    """Compile the groups in the order of the funnel. Dimensions that no clause names are left out.

    `shown` are the creatives that may be shown, each with its line item's row.
    """
    size = len(items)

    def values(dimensions: Sequence[Dimension]) -> dict[Dimension, ValueTable]:
        found = {dimension: _clauses(items, dimension) for dimension in dimensions}
        return {dimension: ValueTable(clauses, size) for dimension, clauses in found.items() if clauses}

    def traits(dimension: Dimension) -> TraitTable | None:
        clauses = _clauses(items, dimension)
        return TraitTable(clauses, size) if clauses else None

    nobody = bitmap.zeros(size)
    formats = holders(size, ((one.format.value, row) for one, row in shown))
    slots = holders(size, ((slot_of(one), row) for one, row in shown))
    sizes = _clauses(items, Dimension.SIZE)
    place, device, site, language = values(_PLACE), values(_DEVICE), values(_INVENTORY), values(_LANGUAGE)
    domain, category = traits(Dimension.DOMAIN), traits(Dimension.CATEGORY)
    audience = _audience(items, traits(Dimension.SEGMENT), size)
    rules: list[Rule | None] = [
        Values(place, size) if place else None,
        Values(device, size) if device else None,
        Supply(
            {kind: compress(rows, nobody) for kind, (rows,) in formats},
            {slot: compress(rows, nobody) for slot, (rows,) in slots},
            OfferTable(sizes, size) if sizes else None,
            size,
        ),
        Inventory(site, domain, category, size) if site or domain or category else None,
        Audience(audience, size) if audience else None,
        Values(language, size) if language else None,
        Ways(domains, size),
        Advertisers(domains, size),
    ]
    return [rule for rule in rules if rule is not None]


def _clauses(items: Sequence[LineItem], dimension: Dimension) -> Clauses:
    return {
        row: clause
        for row, item in enumerate(items)
        if (clause := item.targeting.clauses.get(dimension)) is not None and (clause.include or clause.exclude)
    }


def _audience(items: Sequence[LineItem], clauses: TraitTable | None, size: int) -> list[TraitTable]:
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
