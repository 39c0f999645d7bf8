"""Fits Platt scaling, shrunk towards leaving the predictions alone: few positives must not bend much.

The slope comes from predictions made before the outcome was known; the shift is then set so that the predictions of
all training rows sum up to their positives.
"""

import numpy as np
from numpy.typing import NDArray

from models.serving.statistics import sigmoid

#: Standard deviation of what slope and shift are believed to be before the data.
_SLOPE_SD = 0.3
_SHIFT_SD = 0.3
_STEPS = 25


def fit(logits: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Return (slope, intercept) by maximum a posteriori, for n log-odds, labels and weights; (1, 0) without rows.

    The prior is on the slope around the mean of the log-odds, so that changing it alone does not move the overall rate.
    """
    if not len(logits):
        return 1.0, 0.0
    centre = float(np.average(logits, weights=weights))
    design = np.stack([logits - centre, np.ones(len(logits))], axis=1)
    precision = np.diag([_SLOPE_SD**-2, _SHIFT_SD**-2])
    start = np.array([1.0, centre])
    found = start.copy()
    for _ in range(_STEPS):
        rates = sigmoid(design @ found)
        gradient = design.T @ (weights * (labels - rates)) - precision @ (found - start)
        hessian = (design * (weights * rates * (1 - rates))[:, np.newaxis]).T @ design + precision
        step = np.linalg.solve(hessian, gradient)
        found += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    slope = max(float(found[0]), 0.05)  # a model that ranks backwards is refused by the gate, not turned round here
    return slope, float(found[1]) - slope * centre


def shift(logits: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64], slope: float) -> float:
    """Return the intercept with which sigmoid(slope * logits + intercept) sums up to the positives, nearly.

    It starts from leaving the mean of the log-odds where it was.
    """
    scaled = logits * slope
    intercept = start = float(np.average(logits - scaled, weights=weights)) if len(logits) else 0.0
    for _ in range(_STEPS):
        rates = sigmoid(scaled + intercept)
        gradient = weights @ (labels - rates) - (intercept - start) / _SHIFT_SD**2
        step = gradient / (weights @ (rates * (1 - rates)) + _SHIFT_SD**-2)
        intercept += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-9:
            break
    return intercept
