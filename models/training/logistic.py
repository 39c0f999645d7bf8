"""Logistic regression of few columns with a normal prior, by Newton's method."""

import numpy as np
from numpy.typing import NDArray

from models.serving.statistics import sigmoid

_STEPS = 25
_STEP_MAX, _STEP_MIN = 1.0, 1e-9


def fit(
    design: NDArray[np.float64],
    labels: NDArray[np.bool_],
    weights: NDArray[np.float64],
    believed: NDArray[np.float64],
    precision: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the likeliest coefficients (C,) for n rows (n, C), labels and weights.

    Before the data they are `believed` (C,) to be so, each with a `precision` (C,) of one over its variance.
    """
    found = believed.copy()
    for _ in range(_STEPS):
        rates = sigmoid(design @ found)
        gradient = design.T @ (weights * (labels - rates)) - precision * (found - believed)
        hessian = (design * (weights * rates * (1.0 - rates))[:, np.newaxis]).T @ design + np.diag(precision)
        step = np.linalg.solve(hessian, gradient)
        found += np.clip(step, -_STEP_MAX, _STEP_MAX)
        if np.abs(step).max() < _STEP_MIN:
            break
    return found
