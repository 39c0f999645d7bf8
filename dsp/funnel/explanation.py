"""The funnel for people: for every line item of the catalogue, where and why it was lost."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import UserRecord
from dsp.funnel import candidates
from dsp.funnel.stages import Stages
from dsp.openrtb.opportunity import Opportunity
from dsp.pacing.columns import ControlColumns
from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Positions
from dsp.targeting.rows import Conditions


class Stage(StrEnum):
    """Where in the funnel a line item is lost, in order."""

    RECALL = "recall"
    MATCH = "match"
    CAPS = "caps"
    RANK = "rank"


class Verdict(NamedTuple):
    """Where and why a line item was lost; both None for one that is worth scoring."""

    stage: Stage | None
    exclusion: Exclusion | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict on every line item by its id, and how many were left after each stage."""

    verdicts: dict[int, Verdict]
    left: dict[Stage, int]


class _Losses:
    """Takes down who is lost where; the first reason stands."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._ids = snapshot.line_item_ids.tolist()
        self.verdicts = dict.fromkeys(self._ids, Verdict(None, None))
        self.verdicts.update(dict.fromkeys(snapshot.orphan_ids, Verdict(Stage.RECALL, Exclusion.INACTIVE)))
        self.left: dict[Stage, int] = {}

    def lose(self, stage: Stage, reason: Exclusion, rows: Positions) -> None:
        self.verdicts.update((self._ids[row], Verdict(stage, reason)) for row in rows.tolist())


def explain(
    snapshot: Snapshot,
    opportunity: Opportunity,
    user: UserRecord | None,
    controls: ControlColumns,
    now_ms: int,
    limit: int | None = None,
    seat: str = "",
) -> Explanation:
    """Return why each line item of the catalogue, active or not, is or is not worth scoring for an impression.

    Each is given the first reason in the order of the funnel, a line item the one that lost its last creative. Without
    `limit` none is ranked out.
    """
    stages = Stages(snapshot, opportunity, user, controls, now_ms, seat)
    losses = _Losses(snapshot)
    rows = _recall(snapshot, snapshot.index.conditions(stages.asked, now_ms), losses)
    rows = _match(snapshot, snapshot.index.matcher.conditions(opportunity), losses, rows)
    for reason, may in ((Exclusion.FREQUENCY_CAP, stages.uncapped), (Exclusion.FREQUENCY_UNKNOWN, stages.countable)):
        keep = may(rows)
        if keep is not None:
            losses.lose(Stage.CAPS, reason, rows[~keep])
            rows = rows[keep]
    losses.left[Stage.CAPS] = len(rows)
    if limit is not None and len(rows) > limit:
        best = stages.best(rows, limit)
        losses.lose(Stage.RANK, Exclusion.RANKED_OUT, np.setdiff1d(rows, best))
        rows = best
    losses.left[Stage.RANK] = len(rows)
    return Explanation(losses.verdicts, losses.left)


def _recall(snapshot: Snapshot, conditions: Conditions, losses: _Losses) -> Positions:
    left = bitmap.ones(len(snapshot.line_items))
    for reason, words in conditions.in_order():
        losses.lose(Stage.RECALL, reason, bitmap.positions(left & ~words))
        left = left & words
    rows = bitmap.positions(left)
    losses.left[Stage.RECALL] = len(rows)
    return rows


def _match(snapshot: Snapshot, conditions: Conditions, losses: _Losses, rows: Positions) -> Positions:
    creatives = candidates.spans(rows, snapshot.creative_start).creatives
    for reason, words in conditions.in_order():
        creatives = creatives[bitmap.held(words, creatives)]
        matched = np.isin(rows, snapshot.creative_line_items[creatives])
        losses.lose(Stage.MATCH, reason, rows[~matched])
        rows = rows[matched]
    losses.left[Stage.MATCH] = len(rows)
    return rows
