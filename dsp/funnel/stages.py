"""The stages of the funnel over one impression; what becomes of the lost is selection.py's and explanation.py's."""

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import UserRecord
from dsp.frequency.rule import capped
from dsp.openrtb.opportunity import Opportunity
from dsp.pacing.columns import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting.bitmap import Bits, Positions
from dsp.targeting.creatives import Fitting
from dsp.targeting.groups import Asked
from dsp.targeting.rows import Conditions

_NO_SEGMENTS: frozenset[str] = frozenset()


class Stages:
    """What every stage reads. `ways` are the ways into the impression: deals, then the open auction."""

    __slots__ = ("_asked", "_complete", "_exposures", "_now_ms", "_snapshot", "ranked", "ways")

    def __init__(
        self,
        snapshot: Snapshot,
        opportunity: Opportunity,
        user: UserRecord | None,
        controls: ControlColumns,
        now_ms: int,
        seat: str,
    ) -> None:
        # Caps need leave to keep exposures, as limiting how often an ad is shown does, not leave to use a profile.
        counted, known = user if opportunity.may_store else None, user if opportunity.may_personalise else None
        self._snapshot = snapshot
        self._now_ms = now_ms
        self._exposures = counted.exposures if counted is not None else b""
        self._complete = user is None or user.complete
        segments = opportunity.segments if opportunity.may_personalise else _NO_SEGMENTS
        if known is not None and known.segments:
            segments = segments.union(known.segments)
        self.ways = snapshot.index.deals.ways(opportunity, seat)
        self.ranked = snapshot.ranking.by(controls.multiplier)
        self._asked = Asked(opportunity, segments, self.ways, seat)

    def recalled(self) -> Bits | Exclusion:
        """Return the line items that recall leaves, or the reason that lost the last of them."""
        return self._snapshot.index.recall(self._asked, self._now_ms)

    def fitting(self) -> tuple[Fitting, Fitting]:
        """Return two rows that have in common the creatives that match leaves.

        They are the same objects for every impression of which the same is true.
        """
        return self._snapshot.index.matcher.rows(self._asked.opportunity)

    def match_lost(self, rows: tuple[Fitting, Fitting], recalled: Bits) -> Exclusion:
        """Return the reason that lost the last creative of those recalled, where match leaves none."""
        return self._snapshot.index.matcher.lost(self._asked.opportunity, rows, recalled)

    def recall(self) -> Conditions:
        """Return the conditions on line items that `recalled` folds together."""
        return self._snapshot.index.conditions(self._asked, self._now_ms)

    def match(self) -> Conditions:
        """Return the conditions on creatives that `fitting` folds together."""
        return self._snapshot.index.matcher.conditions(self._asked.opportunity)

    def uncapped(self, rows: Positions) -> NDArray[np.bool_] | None:
        """Return which of `rows` the user may see again; None when all.

        A user of whom nothing is known may see everything.
        """
        if not self._exposures:
            return None
        full = capped(self._exposures, self._snapshot.caps, self._now_ms)
        if not (full.line_items or full.campaigns or full.advertisers):
            return None
        free = np.ones(rows.shape[0], dtype=np.bool_)
        for column, ids in (
            (self._snapshot.line_item_ids, full.line_items),
            (self._snapshot.campaign_id, full.campaigns),
            (self._snapshot.advertiser_id, full.advertisers),
        ):
            for one in ids:
                free &= column.take(rows) != one
        return free

    def countable(self, rows: Positions) -> NDArray[np.bool_] | None:
        """Return which of `rows` are without caps if exposures may be missing from the user's record; None when all."""
        if self._complete:
            return None
        free: NDArray[np.bool_] = ~self._snapshot.has_caps.take(rows)
        return free

    def best(self, rows: Positions, limit: int) -> Positions:
        """Return the `limit` best of `rows`, which are more, ascending: by value at prior rates times multiplier."""
        best = (-self.ranked.score.take(rows)).argpartition(limit)[:limit]
        best.sort()
        return rows.take(best)
