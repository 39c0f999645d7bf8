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


def fit(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return (slope, intercept) by maximum a posteriori, for n log-odds and their labels; (1, 0) without rows.

    The prior is on the slope around the mean of the log-odds, so that changing it alone does not move the overall rate.
    """
    if not len(logits):
        return 1.0, 0.0
    centre = float(logits.mean())
    design = np.stack([logits - centre, np.ones(len(logits))], axis=1)
    precision = np.diag([_SLOPE_SD**-2, _SHIFT_SD**-2])
    start = np.array([1.0, centre])
    weights = start.copy()
    for _ in range(_STEPS):
        rates = sigmoid(design @ weights)
        gradient = design.T @ (labels - rates) - precision @ (weights - start)
        hessian = (design * (rates * (1 - rates))[:, np.newaxis]).T @ design + precision
        step = np.linalg.solve(hessian, gradient)
        weights += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    slope = max(float(weights[0]), 0.05)  # a model that ranks backwards is refused by the gate, not turned round here
    return slope, float(weights[1]) - slope * centre


def shift(logits: NDArray[np.float64], labels: NDArray[np.bool_], slope: float) -> float:
    """Return the intercept with which sigmoid(slope * logits + intercept) sums up to the positives, nearly.

    It starts from leaving the mean of the log-odds where it was.
    """
    scaled = logits * slope
    intercept = start = float(logits.mean() - scaled.mean()) if len(logits) else 0.0
    for _ in range(_STEPS):
        rates = sigmoid(scaled + intercept)
        gradient = labels.sum() - rates.sum() - (intercept - start) / _SHIFT_SD**2
        step = gradient / ((rates * (1 - rates)).sum() + _SHIFT_SD**-2)
        intercept += float(np.clip(step, -1.0, 1.0))
        if abs(step) < 1e-9:
            break
    return intercept
