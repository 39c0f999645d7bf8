"""The metrics of parts of the rows, with bounds that say how little a thin part tells."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv  # type: ignore[import-untyped]

from models.evaluation.metrics import BINS, Bin, Metrics, auc, measure, reliability

#: A bin of a curve has so many clicks on average, or it would show chance.
_BIN_CLICKS = 15


class Slice(NamedTuple):
    """One part: its value in the column that parts the rows (None: all parts too thin to tell), and its metrics.

    `low` and `high` bound `metrics.pcoc`: a calibrated part has 1 between them with the confidence asked for. `high` is
    None where no clicks came.
    """

    value: int | None
    parts: int  # how many values it stands for
    metrics: Metrics
    low: float | None
    high: float | None
    curve: tuple[Bin, ...]  # as many bins as its clicks allow


def poisson_bounds(count: float, confidence: float) -> tuple[float, float]:
    """Return between what the mean of a Poisson count lies, two-sided (Garwood 1936)."""
    tail = (1.0 - confidence) / 2.0
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1.0, 1.0 - tail))


def clicks_bounds(labels: NDArray[np.bool_], weights: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return between what the expected sum of clicks lies, two-sided, given n labels and weights.

    Clicks are taken as Poisson. Weighted ones count as the number of equal ones that would tell as much (Kish 1965),
    each as heavy as they weigh on average.
    """
    held = weights[labels]
    if not len(held):
        return 0.0, poisson_bounds(0.0, confidence)[1] * float(weights.mean())
    weight = float((held**2).sum() / held.sum())
    low, high = poisson_bounds(float(held.sum()) / weight, confidence)
    return low * weight, high * weight


def pcoc_bounds(
    predicted: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64], confidence: float
) -> tuple[float | None, float | None]:
    """Return bounds of the sum of predictions over the expected clicks; (None, None) without rows."""
    if not len(labels):
        return None, None
    low, high = clicks_bounds(labels, weights, confidence)
    total = float(weights @ predicted)
    return total / high, total / low if low else None


def by_value(
    keys: NDArray[np.int64],
    predicted: NDArray[np.float64],
    labels: NDArray[np.bool_],
    weights: NDArray[np.float64],
    clicks_min: int,
    count_max: int,
    confidence: float,
) -> list[Slice]:
    """Return the metrics of the values of `keys` (n,), most clicks first; at the end all others together, as None.

    A value has a part of its own if it has `clicks_min` clicks, and is among the first `count_max`.
    """
    values, places = np.unique(keys, return_inverse=True)
    clicks = np.bincount(places[labels], minlength=len(values))
    order = np.lexsort((values, -np.bincount(places, minlength=len(values)), -clicks))
    own = [int(place) for place in order if clicks[place] >= clicks_min][:count_max]
    parts: list[tuple[int | None, int, NDArray[np.bool_]]] = [(int(values[place]), 1, places == place) for place in own]
    if len(own) < len(values):
        parts.append((None, len(values) - len(own), ~np.isin(places, own)))
    return [
        Slice(
            value,
            count,
            measure(predicted[rows], labels[rows], weights[rows]),
            *pcoc_bounds(predicted[rows], labels[rows], weights[rows], confidence),
            curve(predicted[rows], labels[rows], weights[rows]),
        )
        for value, count, rows in parts
    ]


def curve(predicted: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]) -> tuple[Bin, ...]:
    """Return the reliability curve of n predictions in as many bins as their clicks allow, ten at most."""
    bins = min(BINS, max(1, int(labels.sum()) // _BIN_CLICKS))
    return reliability(predicted, labels, weights, bins)[0]


def gauc(
    keys: NDArray[np.int64], predicted: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]
) -> float | None:
    """Return the mean AUC within the values of `keys` (n,), weighed by their rows; None where no value has both labels.

    Zhu et al. 2017, "Optimized cost per click in Taobao display advertising", section 4.
    """
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    total = weight = 0.0
    for rows in np.split(order, edges):
        area = auc(predicted[rows], labels[rows], weights[rows])
        if area is not None:
            total += area * float(weights[rows].sum())
            weight += float(weights[rows].sum())
    return total / weight if weight else None
