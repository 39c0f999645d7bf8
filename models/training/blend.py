"""Blends models: a weighted mean of their log-odds, calibrated along the hierarchy. All is fitted out of time.

Every part predicts each time block knowing only earlier ones; weights and calibration come from those predictions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.serving.calibration import HierarchicalCalibration
from models.training import calibrate
from models.training.config import Family
from models.training.rows import Rows
from models.training.weights import recent

Floats = NDArray[np.float64]
#: Beforehand weights are believed to be equal, but 0 of what has to show first that it helps, with this deviation.
_WEIGHT_SD = 0.3
_UNPROVEN: Family = "network"


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
    crosswise: bool = False,
) -> Blend:
    """Fit weights and calibration to log-odds by part, (n,), that were made before the n rows' outcomes were known.

    `blocks` (n,) numbers the time blocks that were predicted, from `earlier` rows and the blocks before them or,
    `crosswise`, all others.
    """
    rows = recent(rows, half_life_days)
    weights = {name: weight for name, weight in _weights(parts, rows, blocks).items() if weight > 0.0}
    return Blend(weights, calibrate.fit_hierarchy(mixed(weights, parts), rows, spec, blocks, earlier, crosswise))


def _weights(parts: Mapping[str, Floats], rows: Rows, blocks: NDArray[np.int64] | None) -> dict[str, float]:
    """Return weights, none negative and 1 in sum: the likeliest, shrunk towards those that are believed beforehand."""
    proven = [name for name in parts if name != _UNPROVEN] or list(parts)
    believed = np.array([float(name in proven) / len(proven) for name in parts])
    if len(parts) == 1 or not len(rows):
        return dict(zip(parts, believed.tolist(), strict=True))
    logits = np.stack(list(parts.values()), axis=1)
    found = calibrate.factors(logits, rows.labels, rows.weights, believed, _WEIGHT_SD, blocks)[0][:-1]
    helps = found > 0.0
    if helps.any() and not helps.all():
        return _weights({name: parts[name] for name, kept in zip(parts, helps, strict=True) if kept}, rows, blocks)
    weights = found / found.sum() if helps.all() else believed
    return dict(zip(parts, weights.tolist(), strict=True))
