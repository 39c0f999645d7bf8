"""How far later traffic differs from what a model was trained on: the population stability index (PSI) of inputs."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.evaluation.families import families
from models.features.spec import FeatureSpec
from models.training.rows import Rows

#: Below the first nothing to speak of has changed; from the second on much has (Siddiqi 2006, chapter 8).
MODERATE, LARGE = 0.1, 0.25
_VALUES = 20  # told apart of a column without order; the rest is one bin
_BINS = 10  # of a column with order, as nearly equal as its values allow
_HALF = 0.5  # added to each bin's count, so that an empty one is no infinity


class Drift(NamedTuple):
    """One input: its PSI, what chance alone gives on average with so many rows.

    `unseen` is the share of later values that were never seen before; None where values have an order.
    """

    name: str
    psi: float
    chance: float
    unseen: float | None


def psi(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Return the PSI of two histograms (bins,) of counts: the sum of (q - p) ln(q / p) over the bins' shares."""
    left, right = before + _HALF, after + _HALF
    left, right = left / left.sum(), right / right.sum()
    return float(((right - left) * np.log(right / left)).sum())


def columns(before: Rows, after: Rows, spec: FeatureSpec) -> list[Drift]:
    """Return the drift of each family of columns, largest first; none where either has no rows."""
    if not len(before) or not len(after):
        return []
    coded = {name for group in spec.groups for name in (*group.request, *group.ad)}
    coded |= {name for match in spec.matches for name in (*match.request, match.ad)}
    ordered = {*spec.request_numbers, *spec.ad_numbers}
    ordered |= {name for described in spec.sequence for name in described if name not in coded}
    found = []
    for family in families(spec):
        names = [spec.request_columns[place] for place in family.request]
        names += [spec.ad_columns[place] for place in family.ad]
        sides = [
            np.concatenate((rows.requests[:, family.request].ravel(), rows.ads[:, family.ad].ravel()))
            for rows in (before, after)
        ]
        few = len(np.unique(sides[0])) <= _VALUES  # then each has a bin of its own anyway
        measured = values_with_order if ordered.issuperset(names) and not few else values_without_order
        found.append(measured(family.name, *sides))
    return by_size(found)


def by_size(found: Iterable[Drift]) -> list[Drift]:
    """Return the largest drift first."""
    return sorted(found, key=lambda drift: (-drift.psi, drift.name))


def values_without_order(name: str, before: NDArray[np.int64], after: NDArray[np.int64]) -> Drift:
    """Return the drift of codes or hashes, (n,) and (m,): of the most frequent ones, and of all others together."""
    values, counts = np.unique(before, return_counts=True)
    chosen = np.sort(values[np.argsort(-counts, kind="stable")[:_VALUES]])
    histograms = [_histogram(_places(chosen, side), len(chosen) + 1) for side in (before, after)]
    unseen = float(1.0 - np.isin(after, values).mean())
    return _drift(name, histograms[0], histograms[1], unseen)


def values_with_order(
    name: str, before: NDArray[np.int64] | NDArray[np.float64], after: NDArray[np.int64] | NDArray[np.float64]
) -> Drift:
    """Return the drift of numbers, (n,) and (m,), in bins that held a tenth each before."""
    inner = np.unique(np.quantile(before, np.arange(1, _BINS) / _BINS, method="lower"))
    histograms = [_histogram(np.searchsorted(inner, side, side="left"), len(inner) + 1) for side in (before, after)]
    return _drift(name, histograms[0], histograms[1], None)


def _drift(name: str, before: NDArray[np.int64], after: NDArray[np.int64], unseen: float | None) -> Drift:
    filled = (before + after) > 0
    chance = (filled.sum() - 1) * (1.0 / before.sum() + 1.0 / after.sum())
    return Drift(name, psi(before[filled], after[filled]), float(chance), unseen)


def _places(chosen: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the place of each value among those chosen (sorted), after the last where it is not."""
    places = np.minimum(np.searchsorted(chosen, values), len(chosen) - 1)
    return np.where(chosen[places] == values, places, len(chosen))


def _histogram(places: NDArray[np.intp], bins: int) -> NDArray[np.int64]:
    return np.bincount(places, minlength=bins).astype(np.int64)
