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
from dsp.pacing.controller import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Positions
from dsp.targeting.deals import FIRST_PRICE, FIXED_PRICE, Way
from dsp.targeting.memo import Fit
from dsp.targeting.rows import Conditions

#: Combinations of floor and number of candidates whose terms are kept.
_TERMS_MAX = 4_096


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
    so no block starves the auction. The work is a row of words for each dimension and block, unless an
    impression like it came before, and a few array operations on what is left; none of it is done line item by line
    item.

    `controls` are aligned to the snapshot; `seat` is ours on the exchange, since a deal may be for some seats only.
    """
    stages = Stages(snapshot, opportunity, user, controls, now_ms, seat)
    key, live = stages.key(), snapshot.index.live(now_ms)
    fit = snapshot.index.memo.get(key, live)
    if fit is None:
        fit = _find(snapshot, stages)
        snapshot.index.memo.put(key, live, fit)
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
    creatives = candidates.draw(
        fit.creatives, fit.owners, fit.ends, rows, snapshot.creative_lots, opportunity.auction_id
    )
    return _enter(rows, creatives, stages.ways)


def _find(snapshot: Snapshot, stages: Stages) -> Fit | Exclusion:
    """Recall and match: the creatives that fit, or the reason there are none."""
    recall = stages.recall()
    recalled = recall.intersection()
    if not np.count_nonzero(recalled):
        return _last_lost(recall) if snapshot.line_items else Exclusion.NO_CANDIDATE
    match = stages.match()
    fit = candidates.fitting(recalled, match.intersection(), snapshot.creative_line_items, snapshot.creative_start)
    if not fit.shape[0]:
        return _last_creative_lost(match, candidates.spans(bitmap.positions(recalled), snapshot.creative_start))
    owners = snapshot.creative_line_items.take(fit)
    ends = candidates.ends_of(owners)
    return Fit(fit, owners, ends, owners.take(ends))


def _last_lost(recall: Conditions) -> Exclusion:
    left = None
    for reason, words in recall.in_order():
        left = words if left is None else left & words
        if not np.count_nonzero(left):
            return reason
    raise AssertionError("line items are left after the conditions that left none")


def _last_creative_lost(match: Conditions, creatives: Positions) -> Exclusion:
    for reason, words in match.in_order():
        creatives = creatives[bitmap.mask(words).take(creatives)]
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
