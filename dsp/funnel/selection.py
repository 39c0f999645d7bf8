"""The funnel as the bidder runs it: the candidates of one impression, each with a creative and a way in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import UserRecord
from dsp.funnel import groups
from dsp.funnel.stages import Stages
from dsp.openrtb.opportunity import DealOffer, Opportunity
from dsp.pacing.controller import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Positions, Words
from dsp.targeting.deals import Way

_FIRST_PRICE, _FIXED_PRICE = 1, 3  # OpenRTB `at`


class Selection(NamedTuple):
    """K candidates of one impression, ascending by row; every array has shape (K,)."""

    line_items: Positions  # rows of the snapshot
    creatives: Positions  # indexes into snapshot.creatives
    floors_micros_cpm: NDArray[np.int64]  # the deal's, where one is used
    first_price: NDArray[np.bool_]  # whether the winner pays its bid
    fixed_price: NDArray[np.bool_]  # whether the floor is the price agreed
    deals: tuple[DealOffer | None, ...]


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
    sees every line item recalled, and caps and throttle come before ranking: the best `limit` are the best of those
    that can bid, so no block starves the auction. The work is a row of words for each dimension and block, and a few
    array operations on what is left; none of it is done line item by line item.

    `controls` are aligned to the snapshot; `seat` is ours on the exchange, since a deal may be for some seats only.
    """
    stages = Stages(snapshot, opportunity, user, controls, now_ms, seat)
    reasons, words = stages.recall()
    rows = bitmap.positions(bitmap.intersection(words))
    if not rows.shape[0]:
        return reasons[bitmap.first_empty(words)] if snapshot.line_items else Exclusion.NO_CANDIDATE
    first = snapshot.creative_start[rows]
    creatives = groups.spans(first, snapshot.creative_start[rows + 1] - first)
    reasons, words = stages.match()
    fitting = creatives[bitmap.contains(bitmap.intersection(words), creatives)]
    if not fitting.shape[0]:
        return _last_lost(reasons, words, creatives)
    candidates = groups.group(fitting, snapshot.creative_line_items[fitting])
    keep = stages.uncapped(candidates.rows)
    if keep is not None:
        candidates = groups.take(candidates, keep.nonzero()[0])
        if not candidates.rows.shape[0]:
            return Exclusion.FREQUENCY_CAP
    keep = stages.unthrottled(candidates.rows)
    if not keep.all():
        candidates = groups.take(candidates, keep.nonzero()[0])
        if not candidates.rows.shape[0]:
            return Exclusion.THROTTLED
    if candidates.rows.shape[0] > limit:
        candidates = groups.take(candidates, stages.best(candidates.rows, limit))
    chosen = groups.draw(candidates, opportunity.auction_id, snapshot.creative_ids)
    return _enter(candidates.rows, chosen, stages.ways)


def _last_lost(reasons: Sequence[Exclusion], rows: Sequence[Words], creatives: Positions) -> Exclusion:
    for reason, words in zip(reasons, rows, strict=True):
        creatives = creatives[bitmap.contains(words, creatives)]
        if not creatives.shape[0]:
            return reason
    raise AssertionError("creatives are left after the stage that left none")


def _enter(rows: Positions, creatives: Positions, ways: Sequence[Way]) -> Selection:
    """Give each candidate the first way that it may go."""
    if len(ways) == 1:
        chosen = np.zeros(rows.shape[0], dtype=np.int64)
    else:
        chosen = np.argmax([bitmap.contains(way.line_items, rows) for way in ways], axis=0)
    floors = np.array([way.floor_micros_cpm for way in ways], dtype=np.int64)
    auctions = np.array([way.auction for way in ways], dtype=np.int64)[chosen]
    deals = tuple([ways[number].offer for number in chosen.tolist()])
    return Selection(rows, creatives, floors[chosen], auctions == _FIRST_PRICE, auctions == _FIXED_PRICE, deals)
