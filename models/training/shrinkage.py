"""Fits statistics: log-odds of values and pairs of values, each shrunk as far as the data of its group demand.

Every key has a rate ratio against what all other groups expect, with a Gamma(a, a) prior; its posterior mean is
(clicks + a) / (expected + a). `a` is chosen for each group by its marginal likelihood (empirical Bayes, gamma-Poisson),
so a group that tells nothing shrinks to nothing. Groups are fitted in turns, a few rounds (backfitting).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped]

from models.features.spec import Group
from models.serving.statistics import PLATFORM_COLUMNS, Columns, Slots, Statistics, UInt64s, sigmoid
from models.training.rows import Rows

ROUNDS = 12
#: Strengths tried, in expected clicks. The last all but silences a group that tells nothing.
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: Smaller effects are not stored.
_DELTA_MIN = 1e-3
#: What is known of the overall rate beforehand, in impressions (or clicks, for conversions).
_BASE_ROWS = 20.0


@dataclass(slots=True)
class _Coded:
    """One group over the training rows: for each filled slot its row and the number of its key; weighed positives."""

    keys: UInt64s
    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    positives: NDArray[np.float64]
    deltas: NDArray[np.float64]
    damping: float
    strength: float = STRENGTHS[-1]


def fit(
    groups: Sequence[Group], rows: Rows, base_rate: float, columns: Columns = PLATFORM_COLUMNS
) -> tuple[Statistics, dict[str, float]]:
    """Fit the statistics of rows; a row counts as often as it weighs.

    Returns:
        the statistics, and for each group the strength chosen for its prior (large: the group tells little).
    """
    coded = [_code(group, rows, columns) for group in groups]
    weights, positives = rows.weights, float(rows.weights @ rows.labels)
    base = _logit((positives + base_rate * _BASE_ROWS) / (weights.sum() + _BASE_ROWS))
    logits = np.full(len(rows), base)
    for _ in range(ROUNDS):
        for group in coded:
            logits += _refit(group, logits, weights)
        expected = float(weights @ sigmoid(logits))
        shift = np.log((positives + base_rate * _BASE_ROWS) / (expected + base_rate * _BASE_ROWS))
        base += shift
        logits += shift
    kept = [np.abs(group.deltas) >= _DELTA_MIN for group in coded]
    found = [(group.keys[keep], group.deltas[keep]) for group, keep in zip(coded, kept, strict=True)]
    keys = np.concatenate([np.empty(0, dtype=np.uint64), *(keys for keys, _ in found)])
    values = np.concatenate([np.empty(0), *(deltas for _, deltas in found)])
    statistics = Statistics(groups, float(base), keys, values.astype(np.float32), columns)
    return statistics, {group.name: found.strength for group, found in zip(groups, coded, strict=True)}


def _code(group: Group, rows: Rows, columns: Columns) -> _Coded:
    slots = Slots([group], columns)
    keys = np.concatenate(slots.keys(rows.requests, rows.ads))
    all_filled = np.ones(keys.shape, dtype=np.bool_)
    filled = np.concatenate(slots.present(rows.requests, rows.ads)) if group.is_set else all_filled
    members = np.nonzero(filled)[1]
    unique, codes = np.unique(keys[filled], return_inverse=True)
    positives = np.bincount(codes, weights=(rows.weights * rows.labels)[members], minlength=len(unique)).astype(
        np.float64
    )
    # The members of a set act on one row together; each moves by its share, so that they do not overshoot.
    damping = 1.0 / max(1.0, len(members) / max(1, len(np.unique(members))))
    return _Coded(unique, members, codes, positives, np.zeros(len(unique)), damping)


def _refit(group: _Coded, logits: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Update one group given all others; return what it adds to each row's log-odds."""
    if not len(group.keys):
        return np.zeros(len(logits))
    rates = sigmoid(logits)
    expected = _by_key(group, weights * rates)
    group.strength = _strength(group.positives, expected * np.exp(-group.deltas))
    prior = group.strength * np.exp(group.deltas)
    missing = group.positives + group.strength - expected - prior
    # Where rates are small both are the whole step, log of (positives + strength) over (expected + prior). Where they
    # are not, log-odds move rates by less, and a step by the curvature neither stops short nor runs away.
    curvature = np.where(missing > 0.0, _by_key(group, weights * rates * (1.0 - rates)), expected)
    step = np.log1p(missing / (curvature + prior))
    change = group.damping * step
    group.deltas += change
    return np.bincount(group.rows, weights=change[group.codes], minlength=len(logits)).astype(np.float64)


def _by_key(group: _Coded, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(group.codes, weights=values[group.rows], minlength=len(group.keys)).astype(np.float64)


def _strength(positives: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    def likelihood(strength: float) -> float:
        terms = gammaln(positives + strength) - gammaln(strength) + strength * np.log(strength)
        return float((terms - (positives + strength) * np.log(expected + strength)).sum())

    return max(STRENGTHS, key=likelihood)


def _logit(rate: float) -> float:
    return float(np.log(rate / (1.0 - rate)))
