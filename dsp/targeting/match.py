"""Which creatives an impression can show: what it accepts and what its publisher blocks, as rows over creatives.

A block is one row a value, so matching costs by the blocks of the request, never by the number of candidates.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from dsp.catalog.entities import Creative
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.categories import category_and_parents, is_first, later
from dsp.openrtb.names import STORES, advertised_app, domain, domain_and_parents
from dsp.openrtb.opportunity import Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits, Words
from dsp.targeting.creatives import Blocks, Choices, Creatives, Fitting, Owners, pairs
from dsp.targeting.joint import Reasons, Step
from dsp.targeting.rows import Conditions, expand, known
from dsp.targeting.slots import Slots


class Matcher:
    """The creatives of a snapshot, compiled.

    `categories` are each creative's own and its advertiser's; `servable` says which may be shown at all.
    """

    def __init__(
        self,
        creatives: Sequence[Creative],
        categories: Sequence[frozenset[str]],
        servable: Sequence[bool],
        owners: Owners,
    ) -> None:
        self._slot, self._publisher = Slots(creatives, servable, owners), _Publishers(creatives, categories, owners)
        self._owners = owners
        self._reasons = Reasons(bitmap.ones(len(creatives)).nbytes + bitmap.ones(owners.size).nbytes)

    def rows(self, opportunity: Opportunity) -> tuple[Fitting, Fitting]:
        """Return two rows that have in common the creatives that an impression can show.

        A line item with such a creative is in both; one with a creative in each need not have one that is in both.
        """
        return self._slot.row(opportunity), self._publisher.row(opportunity)

    def conditions(self, opportunity: Opportunity) -> Conditions:
        """Return one by one the conditions that `rows` folds together."""
        out = Conditions()
        self._slot.require(opportunity, out)
        self._publisher.require(opportunity, out)
        return out

    def lost(self, opportunity: Opportunity, rows: tuple[Fitting, Fitting], members: Bits) -> Exclusion:
        """Return the reason, in the order of the funnel, that loses the last creative of `members`, at least one.

        `rows` have no creative of theirs in common.
        """

        def steps() -> Sequence[Step]:
            found, left = dict[Exclusion, Words](), None
            for reason, words in self.conditions(opportunity).in_order():
                left = found[reason] = words if left is None else left & words
            return [(reason, self._owners.of(words)) for reason, words in found.items()]

        return self._reasons.lost(members, rows, steps)


class _Publishers(Creatives):
    """What the publisher wants: blocks on where ads lead to and on categories, and languages.

    Blocks on an advertiser's own domain are its line items' (`dsp.targeting.groups.Advertisers`).
    """

    def __init__(self, creatives: Sequence[Creative], categories: Sequence[frozenset[str]], owners: Owners) -> None:
        super().__init__(self._spelling_of, len(creatives), owners)
        self._apps = Blocks(len(creatives), pairs(creatives, _app))
        self._sites = Blocks(len(creatives), pairs(creatives, _sites))
        named = (
            (name, n) for n, values in enumerate(categories) for value in values for name in category_and_parents(value)
        )
        self._categories = Blocks(len(creatives), named)
        #: By code, without what is above it.
        self._stated = Blocks(len(creatives), ((code, n) for n, values in enumerate(categories) for code in values))
        self._nobody = bitmap.zeros(len(creatives))
        self._later = bitmap.from_mask(
            np.array([not all(map(is_first, values)) for values in categories], dtype=np.bool_)
        )
        self._languages = Choices(creatives, lambda one: (one.language.lower(),) if one.language else ())

    def _spelling_of(self, opportunity: Opportunity) -> Hashable:
        # Lists of advertisers and of apps are long, and few of them make a difference.
        return (
            opportunity.blocked_advertisers & self._sites.named,
            opportunity.blocked_apps & self._apps.named,
            opportunity.blocked_categories,
            opportunity.allowed_categories,
            opportunity.category_taxonomy,
            opportunity.languages_allowed,
        )

    def key(self, opportunity: Opportunity) -> Hashable:
        """Return the sites, apps, categories and languages that some creative has."""
        return (
            opportunity.blocked_advertisers & self._sites.named,
            opportunity.blocked_apps & self._apps.named,
            opportunity.blocked_categories & self._categories.named,
            opportunity.allowed_categories & self._categories.named,
            frozenset(map(is_first, opportunity.allowed_categories)),
            self._unequal(opportunity),
            known(opportunity.languages_allowed, self._languages.named),
        )

    def require(self, opportunity: Opportunity, out: Conditions) -> None:
        """Add the conditions that can bind."""
        self._sites.require(Exclusion.ADVERTISER_BLOCKED, opportunity.blocked_advertisers, out)
        self._apps.require(Exclusion.APP_BLOCKED, opportunity.blocked_apps, out)
        unequal = self._unequal(opportunity)
        if unequal is not None:
            out.require(Exclusion.CATEGORY_UNKNOWN, self._later if unequal else self._nobody)
        if opportunity.allowed_categories:
            self._require_allowed(opportunity.allowed_categories, out)
        self._categories.require(Exclusion.CATEGORY_BLOCKED, opportunity.blocked_categories, out)
        if opportunity.languages_allowed:
            self._languages.require(Exclusion.CREATIVE_LANGUAGE, opportunity.languages_allowed, out)

    def _unequal(self, opportunity: Opportunity) -> int | None:
        """Return the taxonomy of the categories listed where none of the first can equal all of them."""
        listed = opportunity.blocked_categories | opportunity.allowed_categories
        return opportunity.category_taxonomy if later(listed, opportunity.category_taxonomy) else None

    def _require_allowed(self, allowed: frozenset[str], out: Conditions) -> None:
        """Add that a creative has an allowed category, and none of the same form that is not."""
        forms, some = {is_first(code) for code in allowed}, self._nobody
        for code, others in self._stated.rows.items():
            if not allowed.isdisjoint(category_and_parents(code)):
                some = some | (self.everyone.creatives & ~expand(others))
            elif is_first(code) in forms:
                out.require(Exclusion.CATEGORY_BLOCKED, expand(others))
        out.require(Exclusion.CATEGORY_BLOCKED, some)


def _app(creative: Creative) -> tuple[str, ...]:
    app = advertised_app(creative.landing_url).lower()
    return (app,) if app else ()


def _sites(creative: Creative) -> frozenset[str]:
    """Return the domain that an ad leads to and those above it; none of a store, which is not what is advertised."""
    host = domain(creative.landing_url)
    return frozenset() if host in STORES else domain_and_parents(host)
