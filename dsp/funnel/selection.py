"""The funnel as the bidder runs it: the candidates of one impression, each with a creative and a way in."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import UserRecord
from dsp.funnel import candidates
from dsp.funnel.stages import Stages
from dsp.openrtb.opportunity import DealOffer, Opportunity
from dsp.pacing.columns import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Positions, Words
from dsp.targeting.deals import FIRST_PRICE, FIXED_PRICE, Way
from dsp.targeting.memo import Fit
from dsp.targeting.rows import Conditions

#: Combinations of floor and number of candidates whose terms are kept.
_TERMS_MAX = 4_096
#: For each line item that may be kept so many recalled are looked at first; blocks and caps take some of them.
_LOOKED_AT = 4
#: Where they leave too few, eight times as many are looked at, and so on down to all.
_TIERS_DOWN = 3


class Selection(NamedTuple):
    """K candidates of one impression, ascending by row; every array has shape (K,). Shared: never write to one."""

    line_items: Positions  # rows of the snapshot
    creatives: Positions  # indexes into snapshot.creatives
    floors_micros_cpm: NDArray[np.int64]  # the deal's, where one is used
    first_price: NDArray[np.bool_]  # whether the winner pays its bid
    fixed_price: NDArray[np.bool_]  # whether the floor is the price agreed
    deals: tuple[DealOffer | None, ...]

    def has_creatives_of(self, other: "Selection | Exclusion") -> bool:
        """Tell whether the candidates are the other's, in the same order."""
        return isinstance(other, Selection) and np.array_equal(self.creatives, other.creatives)


def select(
    snapshot: Snapshot,
    opportunity: Opportunity,
    user: UserRecord | None,
    controls: ControlColumns,
    now_ms: int,
    limit: int,
    seat: str = "",
) -> Selection | Exclusion:
    """Return the at most `limit` line items worth scoring for an impression, or the reason there are none.

    The reason is that of the stage, and within recall and match of the dimension, that lost the last line item. Match
    sees every line item recalled, and caps come before ranking: the best `limit` are the best of those that can bid,
    so no block starves the auction. The work is a row of words for each group of conditions and a few array operations
    on the best tier of what is left, and on the next where that is not enough; none of it is done line item by line
    item, and none where the same rows led to something before.

    `controls` are aligned to the snapshot; `seat` is ours on the exchange, since a deal may be for some seats only.
    """
    stages = Stages(snapshot, opportunity, user, controls, now_ms, seat)
    live, (recall, match), memo = stages.live(), stages.rows(), snapshot.index.memo
    rows = (*recall, *match)
    fit = memo.get(rows, live)
    if fit is not None:
        return _choose(snapshot, stages, fit, limit, opportunity.auction_id)
    recalled = bitmap.intersection((live, *recall))
    matched, tiers = match[0] & match[1], stages.ranked.tiers
    tier = stages.ranked.tier_of(recalled, _LOOKED_AT * limit)
    while tier:
        some = _fit(snapshot, recalled & tiers[tier], matched)
        chosen = _choose(snapshot, stages, some, limit, opportunity.auction_id) if some is not None else None
        if isinstance(chosen, Selection) and chosen.line_items.shape[0] == limit:
            return chosen
        tier = max(0, tier - _TIERS_DOWN)
    fit = _fit(snapshot, recalled, matched) or _why_none(snapshot, stages, recalled)
    memo.put(rows, live, fit)
    return _choose(snapshot, stages, fit, limit, opportunity.auction_id)


def _fit(snapshot: Snapshot, recalled: Words, matched: Words) -> Fit | None:
    """Return the creatives of the line items recalled that match; None where there are none."""
    creatives = candidates.spans(bitmap.positions(recalled), snapshot.creative_start)
    creatives = creatives[bitmap.held(matched, creatives)]
    if not creatives.shape[0]:
        return None
    owners = snapshot.creative_line_items.take(creatives)
    bounds = candidates.bounds_of(owners)
    first = bounds[:-1]
    return Fit(creatives, owners.take(first), first, bounds[1:] - first)


def _why_none(snapshot: Snapshot, stages: Stages, recalled: Words) -> Exclusion:
    """Return the reason that no creative of any line item fits."""
    if not recalled.any():
        return stages.recall_lost() if snapshot.line_items else Exclusion.NO_CANDIDATE
    creatives = candidates.spans(bitmap.positions(recalled), snapshot.creative_start)
    return _last_creative_lost(stages.match(), creatives)


def _choose(
    snapshot: Snapshot, stages: Stages, fit: Fit | Exclusion, limit: int, auction_id: str
) -> Selection | Exclusion:
    """Caps and rank on what fits, and a creative and a way in for each that is left."""
    if isinstance(fit, Exclusion):
        return fit
    rows = fit.line_items
    keep = stages.uncapped(rows)
    if keep is not None:
        rows = rows[keep]
        if not rows.shape[0]:
            return Exclusion.FREQUENCY_CAP
    keep = stages.countable(rows)
    if keep is not None:
        rows = rows[keep]
        if not rows.shape[0]:
            return Exclusion.FREQUENCY_UNKNOWN
    if rows.shape[0] > limit:
        rows = rows[stages.best(rows, limit)]
    first, counts = fit.first, fit.counts
    if rows.shape[0] < first.shape[0]:
        places = fit.line_items.searchsorted(rows)
        first, counts = first.take(places), counts.take(places)
    creatives = candidates.draw(fit.creatives, first, counts, snapshot.creative_lots, auction_id)
    return _enter(rows, creatives, stages.ways)


def _last_creative_lost(match: Conditions, creatives: Positions) -> Exclusion:
    for reason, words in match.in_order():
        creatives = creatives[bitmap.held(words, creatives)]
        if not creatives.shape[0]:
            return reason
    raise AssertionError("creatives are left after the conditions that left none")


def _enter(rows: Positions, creatives: Positions, ways: Sequence[Way]) -> Selection:
    """Give each candidate the first way that it may go."""
    size = rows.shape[0]
    if len(ways) == 1:
        offer, floor, auction, _ = ways[0]
        return Selection(rows, creatives, *_same(size, floor, auction), (offer,) * size)
    chosen = np.array([bitmap.mask(way.line_items).take(rows) for way in ways]).argmax(axis=0)
    floors = np.array([way.floor_micros_cpm for way in ways], dtype=np.int64).take(chosen)
    auctions = np.array([way.auction for way in ways], dtype=np.int64).take(chosen)
    offers = tuple([ways[number].offer for number in chosen.tolist()])
    return Selection(rows, creatives, floors, auctions == FIRST_PRICE, auctions == FIXED_PRICE, offers)


@lru_cache(maxsize=_TERMS_MAX)
def _same(
    size: int, floor_micros_cpm: int, auction: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the floors, first prices and fixed prices of candidates that all go one way: there are few."""
    return (
        np.full(size, floor_micros_cpm, dtype=np.int64),
        np.full(size, auction == FIRST_PRICE),
        np.full(size, auction == FIXED_PRICE),
    )
