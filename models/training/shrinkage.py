"""Fits statistics: log-odds of values and pairs of values, each shrunk as far as the data of its group demand.

Every key has a rate ratio against what all other groups expect, with a Gamma(a, a) prior; its posterior mean is
(clicks + a) / (expected + a). `a` is chosen for each group by its marginal likelihood (empirical Bayes, gamma-Poisson),
so a group that tells nothing shrinks to nothing. Groups are fitted in turns, a few rounds (backfitting).

Conversions are few. What clicks tell of a value is where its conversions start from, by as much as clicks of its group
tell of conversions: people who like a vertical click more and buy more, a slot above the fold is clicked more alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # type: ignore[import-untyped]

from models.features.spec import Group
from models.serving.statistics import PLATFORM_COLUMNS, Columns, Slots, Statistics, UInt64s, sigmoid
from models.training import logistic
from models.training.rows import Rows

ROUNDS = 12
#: Strengths tried, in expected clicks. One chosen by a few days' likelihood may silence what tells something on the
#: next day, so it is bounded (docs/experiments/decisions.md, Learning).
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: Of what conversions have beside what clicks tell of them, which is often nothing: the last all but silences it.
STRENGTHS_BESIDE = (*STRENGTHS, 128.0, 256.0, 512.0, 1024.0)
#: Smaller effects are not stored.
_DELTA_MIN = 1e-3
#: What is known of the overall rate beforehand, in impressions (or clicks, for conversions).
_BASE_ROWS = 20.0
#: Around none: what is believed beforehand of the share of a group's log-odds of clicks that its conversions have.
_SHARE_SD = 0.3
#: Likewise of the log-odds of conversions, so wide that it only keeps them finite where none or all came.
_LEVEL_SD = 10.0


@dataclass(slots=True)
class _Coded:
    """One group over the training rows: for each filled slot its row and the number of its key; weighed positives."""

    keys: UInt64s
    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    positives: NDArray[np.float64]
    deltas: NDArray[np.float64]
    damping: float
    strengths: tuple[float, ...]  # from which its own is chosen
    strength: float = STRENGTHS[-1]


class _Table(NamedTuple):
    """What is stored of one group."""

    group: Group
    keys: UInt64s
    values: NDArray[np.float64]


def fit(
    groups: Sequence[Group],
    rows: Rows,
    base_rate: float,
    columns: Columns = PLATFORM_COLUMNS,
    seen: Rows | None = None,
) -> tuple[Statistics, dict[str, float]]:
    """Fit the statistics of rows; a row counts as often as it weighs. `seen`: the impressions whose clicks they are.

    Returns:
        the statistics, and for each group the strength chosen for its prior (large: the group tells little).
    """
    carried = [] if seen is None else _carried(groups, rows, seen, columns)
    known = _told(carried, rows, columns).sum(axis=1)
    strengths = STRENGTHS if seen is None else STRENGTHS_BESIDE
    coded = [_code(one, rows, columns, strengths) for one in groups]
    base = _backfit(coded, rows, base_rate, known)
    keys, values = _united([*_tables(groups, coded), *carried])
    statistics = Statistics(groups, base, keys, values.astype(np.float32), columns)
    return statistics, {group.name: found.strength for group, found in zip(groups, coded, strict=True)}


def _backfit(coded: Sequence[_Coded], rows: Rows, base_rate: float, known: NDArray[np.float64]) -> float:
    """Fit groups in turns to what log-odds known beforehand, (n,), leave unexplained; return the base's."""
    weights, positives = rows.weights, float(rows.weights @ rows.labels)
    base = _logit((positives + base_rate * _BASE_ROWS) / (weights.sum() + _BASE_ROWS))
    logits = base + known
    for _ in range(ROUNDS):
        for group in coded:
            logits += _refit(group, logits, weights)
        expected = float(weights @ sigmoid(logits))
        shift = np.log((positives + base_rate * _BASE_ROWS) / (expected + base_rate * _BASE_ROWS))
        base += shift
        logits += shift
    return float(base)


def _carried(groups: Sequence[Group], rows: Rows, seen: Rows, columns: Columns) -> list[_Table]:
    """Return the part of each group's log-odds of clicks that tells of the conversions of these clicks.

    The parts are shares, found by logistic regression of conversions on the groups' log-odds of clicks. That the rows
    are among `seen` gives nothing away: all of them were clicked, whether they converted or not.
    """
    rate = float(np.average(seen.labels, weights=seen.weights))
    coded = [_code(one, seen, columns, STRENGTHS) for one in groups]
    _backfit(coded, seen, rate, np.zeros(len(seen)))
    tables = _tables(groups, coded)
    told = np.concatenate((_told(tables, rows, columns), np.ones((len(rows), 1))), axis=1)
    precision = np.append(np.full(len(tables), _SHARE_SD**-2), _LEVEL_SD**-2)
    shares = logistic.fit(told, rows.labels, rows.weights, np.zeros(len(precision)), precision)
    return [one._replace(values=one.values * share) for one, share in zip(tables, shares.tolist(), strict=False)]


def _tables(groups: Sequence[Group], coded: Sequence[_Coded]) -> list[_Table]:
    kept = [np.abs(found.deltas) >= _DELTA_MIN for found in coded]
    return [
        _Table(group, found.keys[keep], found.deltas[keep])
        for group, found, keep in zip(groups, coded, kept, strict=True)
    ]


def _told(tables: Sequence[_Table], rows: Rows, columns: Columns) -> NDArray[np.float64]:
    """Return what each table says of each row, (n, tables)."""
    found = np.empty((len(rows), len(tables)))
    for place, (group, keys, values) in enumerate(tables):
        found[:, place] = Statistics([group], 0.0, keys, values.astype(np.float32), columns).deltas(
            rows.requests, rows.ads
        )[:, 0]
    return found


def _united(tables: Sequence[_Table]) -> tuple[UInt64s, NDArray[np.float64]]:
    """Return all keys, each once, with the sums of their values."""
    together = np.concatenate([np.empty(0, dtype=np.uint64), *(table.keys for table in tables)])
    values = np.concatenate([np.empty(0), *(table.values for table in tables)])
    keys, places = np.unique(together, return_inverse=True)
    return keys, np.bincount(places, weights=values, minlength=len(keys)).astype(np.float64)


def _code(group: Group, rows: Rows, columns: Columns, strengths: tuple[float, ...]) -> _Coded:
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
    return _Coded(unique, members, codes, positives, np.zeros(len(unique)), damping, strengths)


def _refit(group: _Coded, logits: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Update one group given all others; return what it adds to each row's log-odds."""
    if not len(group.keys):
        return np.zeros(len(logits))
    rates = sigmoid(logits)
    expected = _by_key(group, weights * rates)
    group.strength = _strength(group.positives, expected * np.exp(-group.deltas), group.strengths)
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


def _strength(positives: NDArray[np.float64], expected: NDArray[np.float64], strengths: tuple[float, ...]) -> float:
    def likelihood(strength: float) -> float:
        terms = gammaln(positives + strength) - gammaln(strength) + strength * np.log(strength)
        return float((terms - (positives + strength) * np.log(expected + strength)).sum())

    return max(strengths, key=likelihood)


def _logit(rate: float) -> float:
    return float(np.log(rate / (1.0 - rate)))
