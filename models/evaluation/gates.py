"""Decides whether a new model may replace what serves now: better on later traffic with confidence, and calibrated."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Metrics, losses

#: `promote`: replace what serves. `shadow`: nothing speaks against it, and its advantage is not proven yet.
Result = Literal["promote", "shadow", "refuse"]


class Limits(NamedTuple):
    """What a candidate must show: the settings `training.gate_*` and their neighbours say what each means."""

    confidence: float
    resamples: int
    rows_min: int
    clicks_min: int
    log_loss_tolerance: float
    pcoc_min: float
    pcoc_max: float
    slice_clicks_min: int
    seed: int


class Difference(msgspec.Struct, frozen=True):
    """Log loss of a baseline minus that of a candidate on the same rows, in nats a row: positive is better.

    It lies above `low` with the confidence asked for, and below `high` with the same.
    """

    rows: int
    clicks: int
    mean: float
    low: float
    high: float


class Slice(msgspec.Struct, frozen=True):
    """A part of the rows, its clicks, and the sum of predictions over them: the candidate's, and the baseline's."""

    name: str
    clicks: int
    pcoc: float
    baseline_pcoc: float


class Verdict(NamedTuple):
    """What to do with a candidate, and why it may not simply replace what serves: a sentence for each reason."""

    result: Result
    reasons: tuple[str, ...]


class Pair(NamedTuple):
    """What a candidate and a baseline predict for the same n rows, and what came: (n,) each."""

    candidate: NDArray[np.float64]
    baseline: NDArray[np.float64]
    labels: NDArray[np.bool_]
    weights: NDArray[np.float64]


def difference(pair: Pair, limits: Limits) -> Difference:
    """Compare two predictions by log loss, with the bounds of `bootstrap`."""
    gains = losses(pair.baseline, pair.labels) - losses(pair.candidate, pair.labels)
    return Difference(len(gains), int(pair.labels.sum()), *bootstrap(gains, pair.weights, limits))


def bootstrap(gains: NDArray[np.float64], weights: NDArray[np.float64], limits: Limits) -> tuple[float, float, float]:
    """Return the mean of n rows' gains, and its bounds by a paired bootstrap over rows (Efron and Tibshirani 1993,
    chapter 13); 0 without rows.

    The same seed and rows give the same bounds.
    """
    rows = len(gains)
    if rows == 0:
        return 0.0, 0.0, 0.0
    weighted = gains * weights
    generator = np.random.default_rng(limits.seed)
    means = np.empty(limits.resamples)
    for number in range(limits.resamples):
        drawn = generator.integers(0, rows, rows, dtype=np.int32)
        means[number] = weighted[drawn].sum() / weights[drawn].sum()
    low, high = np.quantile(means, [1.0 - limits.confidence, limits.confidence])
    return float(weighted.sum() / weights.sum()), float(low), float(high)


def slices(name: str, keys: NDArray[np.int64], pair: Pair, limits: Limits) -> list[Slice]:
    """Return the calibration of each value of a column, `keys` (n,), that has clicks enough to tell."""
    values, place = np.unique(keys, return_inverse=True)
    clicks = np.bincount(place[pair.labels], minlength=len(values))
    came, candidate, baseline = (
        np.bincount(place, weights=pair.weights * part) for part in (pair.labels, pair.candidate, pair.baseline)
    )
    return [
        Slice(
            f"{name} {values[each]}",
            int(clicks[each]),
            float(candidate[each] / came[each]),
            float(baseline[each] / came[each]),
        )
        for each in np.flatnonzero(clicks >= max(1, limits.slice_clicks_min))
    ]


def uncalibrated(candidate: Metrics, limits: Limits) -> list[str]:
    """Return a sentence where predictions and clicks differ too much in sum, or cannot be compared."""
    if candidate.pcoc is None:
        return ["there are no clicks to compare predictions with"]
    if limits.pcoc_min <= candidate.pcoc <= limits.pcoc_max:
        return []
    return [f"predictions sum up to {candidate.pcoc:.2f} times the clicks; {_bounds(limits)} is allowed"]


def worse_than_prior(candidate: Metrics, prior: Metrics, limits: Limits) -> list[str]:
    """Return a sentence where smoothed rates, learned from the same rows, predict better: a model is then in vain."""
    if candidate.log_loss is None or prior.log_loss is None:
        return ["there are no rows to compare with the prior on"]
    if candidate.log_loss <= prior.log_loss * (1.0 + limits.log_loss_tolerance):
        return []
    return [f"log loss {candidate.log_loss:.5f} is worse than {prior.log_loss:.5f} of the prior"]


def beaten(name: str, found: Difference, limits: Limits) -> list[str]:
    """Return a sentence where the baseline, which `name` names, predicts better with confidence.

    For a candidate that knows all that the baseline knows, and more: few responses tell the two apart by chance alone.
    """
    if found.high >= 0.0:
        return []
    return [f"log loss is worse than that of {name}: {_interval(found, limits)}"]


def judge(name: str, found: Difference, parts: Iterable[Slice], objections: Iterable[str], limits: Limits) -> Verdict:
    """Weigh a candidate against what serves now, which `name` names.

    A part of the traffic that is out of bounds is a reason only where the baseline is nearer: otherwise keeping that
    one would not help. `objections` are other reasons to refuse.
    """
    reasons = [*objections]
    reasons += [
        f"{part.name}: predictions sum up to {part.pcoc:.2f} times the {part.clicks} clicks, those of {name} to "
        f"{part.baseline_pcoc:.2f}; {_bounds(limits)} is allowed"
        for part in parts
        if not limits.pcoc_min <= part.pcoc <= limits.pcoc_max and _off(part.pcoc) > _off(part.baseline_pcoc)
    ]
    if found.rows < limits.rows_min or found.clicks < limits.clicks_min:
        reasons.append(
            f"{found.rows} rows with {found.clicks} clicks are new to both the candidate and {name}; "
            f"{limits.rows_min} with {limits.clicks_min} are needed"
        )
    elif found.mean <= 0:
        reasons.append(
            f"on {found.rows} rows new to both, log loss is not better than that of {name}: {_interval(found, limits)}"
        )
    if reasons:
        return Verdict("refuse", tuple(reasons))
    if found.low > 0:
        return Verdict("promote", ())
    unproven = (
        f"on {found.rows} rows new to both, log loss is better than that of {name}, which may be chance: "
        f"{_interval(found, limits)}"
    )
    return Verdict("shadow", (unproven,))


def _interval(found: Difference, limits: Limits) -> str:
    return f"by {found.mean:+.6f}, at {limits.confidence:.0%} confidence between {found.low:+.6f} and {found.high:+.6f}"


def _bounds(limits: Limits) -> str:
    return f"{limits.pcoc_min:g} to {limits.pcoc_max:g}"


def _off(pcoc: float) -> float:
    """Return how far a ratio is from 1, up or down alike."""
    return abs(float(np.log(max(pcoc, 1e-9))))
