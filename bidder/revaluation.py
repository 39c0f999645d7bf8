"""What another predictor makes of the impressions that were scored last: pacing is told before it is served from."""

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bidder.predictors import REST_SECONDS
from dsp.pacing.revaluation import Revalued
from dsp.pricing.value import value_by_unit_micros_cpm
from dsp.snapshot.build import Snapshot
from models.serving.predictor import Asked, Predictions, Scorer

#: Impressions remembered. Each is scored once more at a swap.
RECENT_MAX = 512
#: So many are scored between two rests, as auctions go on meanwhile.
_STEP_IMPRESSIONS = 8
#: So many impressions weigh as much as the belief that nothing changes: a few prove little.
_PRIOR_IMPRESSIONS = 5.0


class Scored(NamedTuple):
    """One impression's candidates as the predictor of this version scored them, by their rows in a table of ads."""

    ads: NDArray[np.int64]  # (C, A)
    version: str
    asked: Asked
    found: Predictions


Recent = deque[Scored]


def revalued(
    recent: Sequence[Scored], snapshot: Snapshot, ads: NDArray[np.int64], before: str, after: Scorer
) -> Revalued:
    """Score what `before` scored by `after` as well, which nobody may ask meanwhile; in a thread that may sleep.

    Sums of values are compared, as it is the impressions of great value that are bought. What is remembered of another
    snapshot's `ads` tells nothing.
    """
    count = len(snapshot.line_item_ids)
    sums, impressions = np.zeros((2, count)), np.zeros(count)
    scored = [one for one in recent if one.ads is ads and one.version == before]
    for start in range(0, len(scored), _STEP_IMPRESSIONS):
        step = scored[start : start + _STEP_IMPRESSIONS]
        for one, found in zip(step, after.predict_all([each.asked for each in step]), strict=True):
            rows = snapshot.creative_line_items.take(one.asked[1])
            per_mille, per_click, per_conversion = snapshot.terms_micros.take(rows, 0).T[:3]
            values = np.array(
                [value_by_unit_micros_cpm(per_mille, per_click, per_conversion, *each) for each in (one.found, found)]
            )
            valued = (np.isfinite(values) & (values > 0.0)).all(axis=0)
            for total, of_one in zip(sums, values, strict=True):
                np.add.at(total, rows[valued], of_one[valued])
            np.add.at(impressions, rows[valued], 1.0)
        time.sleep(REST_SECONDS)
    known = np.flatnonzero(impressions)
    weights = impressions[known] / (impressions[known] + _PRIOR_IMPRESSIONS)
    logs = np.log(sums[1, known] / sums[0, known]) * weights
    ids = snapshot.line_item_ids[known].tolist()
    return Revalued(before=before, after=after.version, log_ratios=dict(zip(ids, logs.tolist(), strict=True)))
