"""Blends models: a weighted mean of their log-odds, calibrated along the hierarchy. All is fitted out of time.

Every part predicts each time block knowing only earlier ones; weights and calibration come from those predictions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from models.evaluation.metrics import losses
from models.features.spec import FeatureSpec
from models.serving.calibration import HierarchicalCalibration
from models.serving.statistics import sigmoid
from models.training import calibrate
from models.training.rows import Rows
from models.training.weights import recent

Floats = NDArray[np.float64]
#: Standard deviation of what weights are believed to be around equal ones, and of the intercept around 0.
_WEIGHT_SD = 0.3
_SHIFT_SD = 1.0


class Model(Protocol):
    """What a learner makes."""

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return log-odds before calibration, float64 (n,), of request rows (n, R) and ad rows (n, A)."""


@dataclass(frozen=True, slots=True)
class Blend:
    """How parts are put together: `weights` by name, positive and 1 in sum, then the calibration."""

    weights: dict[str, float]
    calibration: HierarchicalCalibration

    def __call__(self, parts: Mapping[str, Floats], requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return probabilities, float64 (n,), of each part's log-odds (n,) before calibration."""
        return self.calibration(mixed(self.weights, parts), requests, ads)


def walk(fit: Callable[[Rows], Model], rows: Rows, edges: NDArray[np.intp]) -> Floats:
    """Return log-odds for the rows from edges[0] on, each block's by a model of the rows before it."""
    found = [np.empty(0)]
    for begin, end in pairwise(edges.tolist()):
        block = rows[slice(begin, end)]
        found.append(fit(rows[slice(0, begin)]).logits(block.requests, block.ads))
    return np.concatenate(found)


def mixed(weights: Mapping[str, float], parts: Mapping[str, Floats]) -> Floats:
    """Return the weighted sum of the parts' log-odds, (n,)."""
    together: Floats = np.sum([weight * parts[name] for name, weight in weights.items()], axis=0)
    return together


def fit(
    parts: Mapping[str, Floats],
    rows: Rows,
    spec: FeatureSpec,
    blocks: NDArray[np.int64] | None = None,
    half_life_days: float = 0.0,
    earlier: Rows | None = None,
) -> Blend:
    """Fit weights and calibration to log-odds by part, (n,), that were made before the n rows' outcomes were known.

    `blocks` (n,) numbers the time blocks that were predicted; `earlier` rows were known to all of their models.
    """
    rows = recent(rows, half_life_days)
    weights = {name: weight for name, weight in _weights(parts, rows).items() if weight > 0.0}
    return Blend(weights, calibrate.fit_hierarchy(mixed(weights, parts), rows, spec, blocks, earlier))


def _weights(parts: Mapping[str, Floats], rows: Rows) -> dict[str, float]:
    """Return weights of least log loss, none negative, shrunk towards equal ones."""
    names = list(parts)
    if len(names) == 1:
        return {names[0]: 1.0}
    logits = np.stack([parts[name] for name in names], axis=1)
    start = np.append(np.full(len(names), 1.0 / len(names)), 0.0)
    precision = np.append(np.full(len(names), _WEIGHT_SD**-2), _SHIFT_SD**-2)

    def objective(found: Floats) -> tuple[float, Floats]:
        rates = sigmoid(logits @ found[:-1] + found[-1])
        errors = rows.weights * (rates - rows.labels)
        away = found - start
        loss = rows.weights @ losses(rates, rows.labels) + 0.5 * away @ (precision * away)
        return float(loss), np.append(logits.T @ errors, errors.sum()) + precision * away

    bounds = [(0.0, None)] * len(names) + [(None, None)]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x[:-1]
    total = found.sum()
    return dict(zip(names, (found / total if total > 0.0 else start[:-1]).tolist(), strict=True))
