"""Fits calibration: Platt scaling, then shifts along a hierarchy, each moved only as far as the data can be believed.

What they are fitted to are predictions made before the outcome was known. A row that stands for hundreds of sampled
ones is one observation: how noisy sums are is estimated from the rows themselves (the sandwich), not from the weights.
"""

import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec, Group
from models.serving.calibration import HierarchicalCalibration, shifts
from models.serving.statistics import Columns, Slots, sigmoid
from models.training import logistic
from models.training.rows import Rows

#: Standard deviation of what slope and shift are believed to be before the data.
_SLOPE_SD = 0.3
_SHIFT_SD = 0.3
#: Spreads tried for a group's shifts, and what they are believed to be beforehand.
_SPREADS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_SPREAD_SD = 0.5
#: Added to clicks and to what was expected of a key, so that their ratio is never 0.
_HALF = 0.5
#: How much levels, of all and of a campaign, move from one time block to the next, beside what chance does.
_DRIFT_SD = 0.15
_ROUNDS = 10
_SHIFT_MAX = 3.0
#: What was known of a key when a row was predicted, as a share of what is known now, for the row to tell how far off
#: the model is that is to serve.
_KNOWN_MIN = 0.25
_TINY = 1e-12


def fit(
    logits: NDArray[np.float64],
    labels: NDArray[np.bool_],
    weights: NDArray[np.float64],
    blocks: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Return (slope, intercept) for n log-odds, labels and weights; (1, 0) without rows.

    They are the most likely ones, shrunk towards leaving the log-odds alone by as much as they are uncertain: by what
    rows differ, and, where `blocks` (n,) numbers the time blocks of rows, by what blocks differ. The prior is on the
    slope around where clicks are expected, so that changing it alone hardly moves the overall rate.
    """
    if not len(logits):
        return 1.0, 0.0
    found, centres = factors(logits[:, np.newaxis], labels, weights, np.ones(1), _SLOPE_SD, blocks)
    slope = max(float(found[0]), 0.05)  # a model that ranks backwards is refused by the gate, not turned round here
    return slope, float(found[1]) - slope * float(centres[0])


def factors(
    logits: NDArray[np.float64],
    labels: NDArray[np.bool_],
    weights: NDArray[np.float64],
    believed: NDArray[np.float64],
    deviation: float,
    blocks: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a factor for each of K log-odds (n, K) and the level (K + 1,), and the log-odds (K,) it is the level at.

    The likeliest are shrunk towards the factors `believed` (K,), which may be off by this standard deviation, and the
    level those give. The level is taken where clicks are expected, so that a factor alone hardly moves the rate.
    """
    together = logits @ believed
    rates = sigmoid(together)
    centres = np.average(logits, axis=0, weights=weights * rates * (1.0 - rates) + _TINY)
    design = np.column_stack([logits - centres, np.ones(len(logits))])
    start = np.append(believed, centres @ believed)
    free = np.ones(len(start))  # keeps the likeliest finite where rows hardly bind them
    found = logistic.fit(design, labels, weights, start, free)
    rates = sigmoid(design @ found)
    curvature = (design * (weights * rates * (1.0 - rates))[:, np.newaxis]).T @ design + np.diag(free)
    scores = design * (weights * (labels - rates))[:, np.newaxis]
    spread = scores.T @ scores + np.diag(free) + _between(scores, blocks)
    inverse = np.linalg.inv(curvature)
    uncertain = inverse @ spread @ inverse
    uncertain[-1, -1] += _drift(blocks)
    prior = np.diag(np.append(np.full(len(believed), deviation**2), _SHIFT_SD**2))
    return start + prior @ np.linalg.solve(prior + uncertain, found - start), centres


def fit_hierarchy(
    logits: NDArray[np.float64],
    rows: Rows,
    spec: FeatureSpec,
    blocks: NDArray[np.int64] | None = None,
    earlier: Rows | None = None,
    crosswise: bool = False,
) -> HierarchicalCalibration:
    """Fit Platt scaling, then a shift for every value of `spec.calibrate_by`, coarse to fine, to n log-odds.

    With `blocks`, rows are left out whose key the model of their block had hardly seen, in `earlier` rows and blocks
    or, `crosswise`, in all other blocks: what it did not know of a new campaign the model that is to serve has learned,
    and would be put right twice.
    """
    columns = Columns(spec.request_columns, spec.ad_columns)
    if blocks is not None:
        known = np.ones(len(rows), dtype=np.bool_)
        for group in spec.calibrate_by:
            before = np.empty(0, dtype=np.uint64) if earlier is None else _keys(group, earlier, columns)
            known &= _known(_keys(group, rows, columns), blocks, before, crosswise)
        logits, rows, blocks = logits[known], rows[known], blocks[known]
    slope, intercept = fit(logits, rows.labels, rows.weights, blocks)
    calibrated = logits * slope + intercept
    keys = [np.empty(0, dtype=np.uint64)]
    values = [np.empty(0)]
    for group in spec.calibrate_by:
        found, codes = np.unique(_keys(group, rows, columns), return_inverse=True)
        shift_by_key = _levels(codes, len(found), calibrated, rows, blocks)
        calibrated = calibrated + shift_by_key[codes]
        keys.append(found)
        values.append(shift_by_key)
    table = shifts(spec.calibrate_by, np.concatenate(keys), np.concatenate(values), columns)
    return HierarchicalCalibration(slope, intercept, table)


def _keys(group: Group, rows: Rows, columns: Columns) -> NDArray[np.uint64]:
    """Return each row's key, (n,)."""
    return np.concatenate(Slots([group], columns).keys(rows.requests, rows.ads)).ravel()


def _known(
    keys: NDArray[np.uint64], blocks: NDArray[np.int64], earlier: NDArray[np.uint64], crosswise: bool
) -> NDArray[np.bool_]:
    """Return of which rows, (n,), enough of their key was seen before their block or, `crosswise`, outside it."""
    found, codes = np.unique(np.concatenate((earlier, keys)), return_inverse=True)
    numbers = np.concatenate((np.zeros(len(earlier), dtype=np.int64), blocks - blocks.min(initial=0) + 1))
    seen = np.zeros((len(found), int(numbers.max(initial=0)) + 1))
    np.add.at(seen, (codes, numbers), 1.0)
    total = seen.sum(axis=1, keepdims=True)
    known = (total if crosswise else seen.cumsum(axis=1)) - seen
    enough: NDArray[np.bool_] = (known >= _KNOWN_MIN * total)[codes, numbers]
    return enough[len(earlier) :]


def _drift(blocks: NDArray[np.int64] | None) -> float:
    """Return the variance of the mean level of these blocks around that of the next one; 0 where none are told."""
    return 0.0 if blocks is None else _DRIFT_SD**2 / max(1, len(np.unique(blocks)))


def _between(scores: NDArray[np.float64], blocks: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Return how much the sums of scores (n, C) differ between blocks, (C, C): days have a level of their own."""
    count = len(np.unique(blocks)) if blocks is not None else 1
    if count < 2 or blocks is None:
        return np.zeros((scores.shape[1], scores.shape[1]))
    sums = np.stack([scores[blocks == block].sum(axis=0) for block in np.unique(blocks)])
    between: NDArray[np.float64] = sums.T @ sums * count / (count - 1)
    return between


def _levels(
    codes: NDArray[np.intp],
    count: int,
    logits: NDArray[np.float64],
    rows: Rows,
    blocks: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return the shift of each of `count` keys, (count,); `codes` (n,) are the rows' keys.

    The shift that makes clicks and expected clicks equal is taken for normal around the key's own, and those around 0.
    """

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(codes, weights=values, minlength=count).astype(np.float64)

    clicks, shift_by_key = total(rows.weights * rows.labels) + _HALF, np.zeros(count)
    for _ in range(_ROUNDS):
        expected = total(rows.weights * sigmoid(logits + shift_by_key[codes])) + _HALF
        shift_by_key = np.clip(shift_by_key + np.log(clicks / expected), -_SHIFT_MAX, _SHIFT_MAX)
    rates = sigmoid(logits + shift_by_key[codes])
    curvature = total(rows.weights * rates * (1.0 - rates)) + _HALF
    noise = (total((rows.weights * (rows.labels - rates)) ** 2) + _HALF) / curvature**2
    noise += _drift(blocks)

    def likelihood(spread: float) -> float:
        variance = spread**2 + noise
        return float(-0.5 * (np.log(variance) + shift_by_key**2 / variance).sum() - 0.5 * (spread / _SPREAD_SD) ** 2)

    spread = max(_SPREADS, key=likelihood)
    shrunk: NDArray[np.float64] = shift_by_key * spread**2 / (spread**2 + noise)
    return shrunk
