"""What recall is asked of one impression, and the stages after match: caps and rank. Recall and match are the index's;
what becomes of the lost is selection.py's and explanation.py's.
"""

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.user import UserRecord
from dsp.frequency.rule import capped
from dsp.openrtb.opportunity import Opportunity
from dsp.pacing.columns import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting.bitmap import Positions
from dsp.targeting.groups import Asked

_NO_SEGMENTS: frozenset[str] = frozenset()


class Stages:
    """Caps and rank over one impression; `asked` is for recall."""

    __slots__ = ("_complete", "_exposures", "_now_ms", "_snapshot", "asked", "ranked")

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
        self.ranked = snapshot.ranking.by(controls.multiplier)
        self.asked = Asked(opportunity, segments, snapshot.index.deals.ways(opportunity, seat), seat)

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
