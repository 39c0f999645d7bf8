"""What an impression is worth to a line item, from its goal and the predictions."""

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.terms import GoalKind

#: Goal kinds as they stand in a snapshot's `goal_kind` column.
GOAL_CODES = {GoalKind.CPM: 0, GoalKind.CPC: 1, GoalKind.CPA: 2}
_CPM, _CPC = GOAL_CODES[GoalKind.CPM], GOAL_CODES[GoalKind.CPC]


def value_micros_cpm(
    goal_kind: NDArray[np.int8],
    target_micros: NDArray[np.int64],
    pctr: NDArray[np.float64],
    pcvr: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the value of a thousand such impressions in micros, float64 (K,).

    Args:
        goal_kind: codes of `GOAL_CODES`, (K,).
        target_micros: what the goal's unit is worth, (K,): a thousand impressions, a click, a conversion.
        pctr: probability of a click given an impression, (K,).
        pcvr: probability of a conversion given a click, (K,).
    """
    clicks = 1_000.0 * pctr
    units = np.where(goal_kind == _CPM, 1.0, np.where(goal_kind == _CPC, clicks, clicks * pcvr))
    return target_micros.astype(np.float64) * units
