"""The rules on line items in groups, each of what changes together: exchange and place, device, slot, inventory.

Impressions repeat a place or a site far more often than all of them at once, so a group's conditions are folded into
one row that is kept. The key of a row is made of numbers and names that the catalogue knows: every other value is like
none, so that what strangers send neither fills memory nor misses what is kept.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from dsp.catalog.entities import MediaFormat
from dsp.catalog.reasons import BY_LABEL, Exclusion
from dsp.catalog.rules import Dimension
from dsp.openrtb.categories import category_and_parents
from dsp.openrtb.names import domain_and_parents
from dsp.openrtb.opportunity import Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits
from dsp.targeting.clauses import OfferTable, TraitTable, ValueTable
from dsp.targeting.deals import AdvertiserDomains, Way
from dsp.targeting.joint import Group, Reasons, Step
from dsp.targeting.rows import Conditions, Row, expand, known, union
from dsp.targeting.slots import Slot, slots_of


class Asked(NamedTuple):
    """What conditions are asked of: `segments` are all that is known of the user, `ways` come from `DealTable.ways`
    for our seat.
    """

    opportunity: Opportunity
    segments: frozenset[str]
    ways: Sequence[Way]
    seat: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """The line items for which all conditions of a group hold. Equal to no other, however alike."""

    line_items: Bits


class Rule(Group[Asked, Folded]):
    """A group of conditions on `size` line items."""

    def __init__(self, spelling: Callable[[Asked], Hashable], size: int) -> None:
        everyone = bitmap.ones(size)
        super().__init__(spelling, everyone.nbytes)
        self._everyone = Folded(bitmap.to_bits(everyone))
        self._reasons = Reasons(everyone.nbytes)

    def fold(self, conditions: Conditions) -> Folded:
        """Return those for whom all conditions hold."""
        return Folded(bitmap.to_bits(conditions.intersection())) if conditions.rows else self._everyone

    def lost(self, asked: Asked, row: Folded, members: Bits) -> Exclusion:
        """Return the reason, in the order of the funnel, that loses the last of `members`; `row` leaves none."""

        def steps() -> Sequence[Step]:
            out = Conditions()
            self.require(asked, out)
            return [(reason, bitmap.to_bits(words)) for reason, words in out.in_order()]

        return self._reasons.lost(members, row, steps)


class Values(Rule):
    """Dimensions of which an impression has one value each."""

    def __init__(self, tables: Mapping[Dimension, ValueTable], size: int, *others: str) -> None:
        names = [dimension.value for dimension in tables]
        super().__init__(attrgetter(*[f"opportunity.{name}" for name in (*names, *others)]), size)
        self._tables = [
            (BY_LABEL[name], attrgetter(name), table) for name, table in zip(names, tables.values(), strict=True)
        ]

    def key(self, asked: Asked) -> tuple[Hashable, ...]:
        """Return the number of each value, 0 where no clause names it."""
        opportunity = asked.opportunity
        return tuple([table.numbers.get(value(opportunity), 0) for _, value, table in self._tables])

    def require(self, asked: Asked, out: Conditions) -> None:
        """Add a condition a dimension."""
        for reason, value, table in self._tables:
            out.require(reason, expand(table.rows.get(value(asked.opportunity), table.default)))


class Inventory(Values):
    """The site or app: its values, its domain and what is above it, and its categories."""

    def __init__(
        self,
        tables: Mapping[Dimension, ValueTable],
        domains: TraitTable | None,
        categories: TraitTable | None,
        size: int,
    ) -> None:
        super().__init__(tables, size, "domain", "categories")
        self._domains, self._categories = domains, categories

    def key(self, asked: Asked) -> tuple[Hashable, ...]:
        """Return the number of each value, and the domains and categories that clauses name."""
        opportunity, domains, categories = asked.opportunity, self._domains, self._categories
        return (
            super().key(asked),
            domains and domains.named & domain_and_parents(opportunity.domain),
            categories and categories.named & _with_parents(opportunity.categories),
        )

    def require(self, asked: Asked, out: Conditions) -> None:
        """Add a condition a dimension."""
        super().require(asked, out)
        if self._domains is not None:
            self._domains.require(Exclusion.DOMAIN, domain_and_parents(asked.opportunity.domain), out)
        if self._categories is not None:
            self._categories.require(Exclusion.CATEGORY, _with_parents(asked.opportunity.categories), out)


def _with_parents(categories: frozenset[str]) -> frozenset[str]:
    return frozenset([name for category in categories for name in category_and_parents(category)])


class Supply(Rule):
    """The slot: a creative of a format that the impression offers, and one of a size."""

    def __init__(
        self, formats: Mapping[str, Row], slots: Mapping[Slot, Row], sizes: OfferTable | None, size: int
    ) -> None:
        super().__init__(attrgetter("opportunity.formats", "opportunity.sizes"), size)
        self._nobody = bitmap.zeros(size)
        self._formats, self._slots, self._sizes = formats, slots, sizes
        self._banner_slots = [slot for slot in slots if slot[0] == MediaFormat.BANNER]
        ruled = [_sides(value) for value in sizes.rows] if sizes is not None else []
        self._named = frozenset([*ruled, *[slot[1:] for slot in self._banner_slots]])

    def key(self, asked: Asked) -> Hashable:
        """Return the formats, the sizes that make a difference, and whether there are others or none."""
        sizes = asked.opportunity.sizes
        return asked.opportunity.formats, self._named.intersection(sizes), self._named.issuperset(sizes)

    def require(self, asked: Asked, out: Conditions) -> None:
        """Add a condition on formats and up to two on sizes."""
        opportunity, formats, slots = asked.opportunity, self._formats, self._slots
        rows = [formats[kind] for kind in opportunity.formats if kind in formats]
        out.require(Exclusion.FORMAT, union(rows) if rows else self._nobody)
        rows = [slots[slot] for slot in slots_of(opportunity, self._banner_slots) if slot in slots]
        out.require(Exclusion.SIZE, union(rows) if rows else self._nobody)
        if self._sizes is not None:
            sizes = [f"{width}x{height}" for width, height in opportunity.sizes]
            out.require(Exclusion.SIZE, self._sizes.admitting(sizes))


def _sides(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


class Audience(Rule):
    """The user: the clauses on segments, then the first, second, ... group of every audience."""

    def __init__(self, tables: Sequence[TraitTable], size: int) -> None:
        super().__init__(attrgetter("segments"), size)
        self._tables = tables
        self._named = frozenset().union(*[table.named for table in tables])

    def key(self, asked: Asked) -> Hashable:
        """Return the segments that clauses name."""
        return self._named & asked.segments

    def require(self, asked: Asked, out: Conditions) -> None:
        """Add the conditions of each table."""
        for table in self._tables:
            table.require(Exclusion.SEGMENT, asked.segments, out)


class Ways(Rule):
    """Deals and the open auction: a way in."""

    def __init__(self, domains: AdvertiserDomains, size: int) -> None:
        super().__init__(_deals, size)
        self._nobody = bitmap.zeros(size)
        self._named = frozenset(domains.unblocked)

    def key(self, asked: Asked) -> Hashable:
        """Return the deals with those advertisers that they are for and that there are, None for the open auction."""
        offers = [way.offer for way in asked.ways]
        return tuple([offer and (offer.id, known(offer.advertiser_domains, self._named)) for offer in offers])

    def require(self, asked: Asked, out: Conditions) -> None:
        """Add that there is a way in."""
        out.require(Exclusion.DEAL, union([way.line_items for way in asked.ways]) if asked.ways else self._nobody)


def _deals(asked: Asked) -> Hashable:
    return tuple([way.offer and (way.offer.id, way.offer.advertiser_domains) for way in asked.ways])


class Advertisers(Rule):
    """The publisher's blocks on advertisers."""

    def __init__(self, domains: AdvertiserDomains, size: int) -> None:
        super().__init__(attrgetter("opportunity.blocked_advertisers"), size)
        self._unblocked = domains.unblocked
        self._named = frozenset(domains.unblocked)

    def key(self, asked: Asked) -> Hashable:
        """Return the domains blocked that an advertiser has."""
        return asked.opportunity.blocked_advertisers & self._named

    def require(self, asked: Asked, out: Conditions) -> None:
        """Add a condition a domain."""
        for name in asked.opportunity.blocked_advertisers & self._named:
            out.require(Exclusion.ADVERTISER_BLOCKED, expand(self._unblocked[name]))
