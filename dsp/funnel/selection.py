"""The funnel as the bidder runs it: the candidates of one impression, each with a creative and a way in."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import UserRecord
from dsp.funnel import candidates
from dsp.funnel.candidates import Spans
from dsp.funnel.stages import Stages
from dsp.kernel.money import Micros
from dsp.openrtb.opportunity import DealOffer, DurationFloors, Opportunity
from dsp.pacing.columns import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits, Positions, Words
from dsp.targeting.deals import FIRST_PRICE, FIXED_PRICE, Way

#: Combinations of floor and number of candidates whose terms are kept.
_TERMS_MAX = 4_096
#: For each line item that may be kept so many are looked at first; caps take some of them.
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
    so no block starves the auction. The work is an AND for each group of conditions and, where that leaves somebody, a
    few array operations on the best tier of what is left, and on the next where caps take too many; none of it is done
    line item by line item.

    `controls` are aligned to the snapshot; `seat` is ours on the exchange, since a deal may be for some seats only.
    """
    stages = Stages(snapshot, opportunity, user, controls, now_ms, seat)
    index = snapshot.index
    recalled = index.recall(stages.asked, now_ms)
    if isinstance(recalled, Exclusion):
        return recalled
    fitting = slot, publisher = index.matcher.rows(opportunity)
    left = recalled & slot.line_items & publisher.line_items
    if not left:
        return index.matcher.lost(opportunity, fitting, recalled)
    matched = slot.creatives & publisher.creatives
    chosen = _choose(snapshot, stages, left, matched, limit, opportunity, sure=False)
    if not isinstance(chosen, Selection):
        # A line item may have one creative for the slot, another for the publisher, and none for both.
        chosen = _choose(snapshot, stages, left, matched, limit, opportunity, sure=True)
    if chosen is None:
        return index.matcher.lost(opportunity, fitting, recalled)
    return chosen if isinstance(chosen, Exclusion) else _lasting(chosen, snapshot, opportunity)


def _choose(
    snapshot: Snapshot,
    stages: Stages,
    members: Bits,
    matched: Words,
    limit: int,
    opportunity: Opportunity,
    *,
    sure: bool,
) -> Selection | Exclusion | None:
    """Caps, rank, and for each line item a creative that matched and a way in; None where one has no such creative.

    With `sure` those without are left out first, and None says that nobody has one.
    """
    best = _best(snapshot, stages, members, limit, matched if sure else None)
    if best is None or isinstance(best, Exclusion):
        return best
    some = candidates.spans(best, snapshot.creative_start)
    fitting = bitmap.held(matched, some.creatives)
    if opportunity.duration_floors is not None:
        fitting = _cheapest(some, fitting, snapshot, opportunity, opportunity.duration_floors)
    creatives = candidates.draw(some, fitting, snapshot.creative_lots, opportunity.lot)
    return _enter(best, creatives, stages.asked.ways) if creatives.shape[0] == best.shape[0] else None


def _best(
    snapshot: Snapshot, stages: Stages, members: Bits, limit: int, matched: Words | None
) -> Positions | Exclusion | None:
    """Caps and rank: the highest tier first, and lower ones where it is not enough.

    Who has none of the creatives `matched`, if given, is left out; None when that is all.
    """
    tiers, words = stages.ranked.tiers, bitmap.from_bits(members, len(snapshot.line_items))
    tier = stages.ranked.tier_of(members.bit_count(), _LOOKED_AT * limit)
    while True:
        rows = bitmap.positions(words & tiers[tier])
        if matched is not None:
            some = candidates.spans(rows, snapshot.creative_start)
            rows = rows[np.logical_or.reduceat(bitmap.held(matched, some.creatives), some.begins)]
        left = _uncapped(stages, rows) if rows.shape[0] else None
        enough = left is not None and not isinstance(left, Exclusion) and left.shape[0] >= limit
        if enough or not tier:
            break
        tier = max(0, tier - _TIERS_DOWN)
    return stages.best(left, limit) if isinstance(left, np.ndarray) and left.shape[0] > limit else left


def _uncapped(stages: Stages, rows: Positions) -> Positions | Exclusion:
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
    return rows


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


def _cheapest(
    some: Spans, fitting: NDArray[np.bool_], snapshot: Snapshot, opportunity: Opportunity, terms: DurationFloors
) -> NDArray[np.bool_]:
    """Return which of the creatives that fit have the lowest floor of their line item's, which is worth no more."""
    asked = [_floor(snapshot.creatives[number], terms) for number in some.creatives.tolist()]
    floors = np.maximum(np.array(asked, dtype=np.int64), opportunity.floor_micros_cpm)
    floors[~fitting] = np.iinfo(np.int64).max
    cheapest: NDArray[np.bool_] = floors == np.minimum.reduceat(floors, some.begins).repeat(some.counts)
    return fitting & cheapest


def _floor(ad: Creative, terms: DurationFloors) -> Micros:
    timed = ad.format in (MediaFormat.VIDEO, MediaFormat.AUDIO)
    return terms.floor(ad.duration_seconds) if timed and ad.duration_seconds else 0


def _lasting(chosen: Selection, snapshot: Snapshot, opportunity: Opportunity) -> Selection:
    """Raise the floors of ads to those for as long as they last, which few slots and deals have."""
    if opportunity.video is None:
        return chosen
    terms = [opportunity.duration_floors if deal is None else deal.duration_floors for deal in chosen.deals]
    if not any(terms):
        return chosen
    floors = chosen.floors_micros_cpm.copy()
    for number, found in enumerate(terms):
        if found is not None and not chosen.fixed_price[number]:
            ad = snapshot.creatives[chosen.creatives[number]]
            floors[number] = max(floors.item(number), _floor(ad, found))
    return chosen._replace(floors_micros_cpm=floors)


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
