"""How good probabilities are: discrimination (AUC), and how far they can be taken literally (log loss, pcoc, ECE)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 10
_EDGE = 1e-7


class Bin(NamedTuple):
    """A part of the rows by prediction, a tenth by default: what was predicted on average, and the rate that came."""

    rows: int
    clicks: int
    predicted: float
    observed: float


class Metrics(NamedTuple):
    """Scores of one predictor on labelled rows; None where the rows do not define a score. All but `rows` and
    `clicks` count a row as often as it weighs.

    `auc`: chance that a positive outranks a negative. `pcoc`: sum of predictions over positives, 1 is calibrated.
    `ece`: mean distance of predicted from observed over the reliability bins, weighted by rows.

    `log_loss` in nats a row; `normalised_entropy` divides it by that of the overall rate, so 1 is worth nothing.
    """

    rows: int
    clicks: int
    log_loss: float | None
    normalised_entropy: float | None
    auc: float | None
    pcoc: float | None
    ece: float | None
    reliability: tuple[Bin, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the metrics with plain containers."""
        return {**self._asdict(), "reliability": [entry._asdict() for entry in self.reliability]}


def measure(
    predicted: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> Metrics:
    """Score n predictions against n labels; without weights every row counts once."""
    rows, clicks = len(labels), int(labels.sum())
    if rows == 0:
        return Metrics(0, 0, None, None, None, None, None, ())
    weights = np.ones(rows) if weights is None else weights
    total, positives = float(weights.sum()), float(weights @ labels)
    curve, share = reliability(predicted, labels, weights)
    loss = float(np.average(losses(predicted, labels), weights=weights))
    rate = positives / total
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < positives < total else None
    return Metrics(
        rows=rows,
        clicks=clicks,
        log_loss=loss,
        normalised_entropy=None if entropy is None else float(loss / entropy),
        auc=auc(predicted, labels, weights),
        pcoc=float(weights @ predicted) / positives if positives else None,
        ece=sum(part * abs(entry.predicted - entry.observed) for part, entry in zip(share, curve, strict=True)),
        reliability=curve,
    )


def losses(predicted: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each row's log loss in nats, float64 (n,)."""
    clipped = np.clip(predicted, _EDGE, 1 - _EDGE)
    each: NDArray[np.float64] = -np.where(labels, np.log(clipped), np.log1p(-clipped))
    return each


def auc(
    predicted: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> float | None:
    """Return the area under the ROC curve, ties counting half; None unless both labels occur."""
    weights = np.ones(len(labels)) if weights is None else weights
    distinct, inverse = np.unique(predicted, return_inverse=True)
    positive = np.bincount(inverse, weights=weights * labels, minlength=len(distinct))
    negative = np.bincount(inverse, weights=weights * ~labels, minlength=len(distinct))
    if not positive.sum() or not negative.sum():
        return None
    outranked = np.cumsum(negative) - negative / 2.0
    return float(positive @ outranked / (positive.sum() * negative.sum()))


def reliability(
    predicted: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64], bins: int = BINS
) -> tuple[tuple[Bin, ...], list[float]]:
    """Return parts of the weight, as equal as rows allow, in the order of the predictions; and the share of each."""
    order = np.argsort(predicted, kind="stable")
    passed = np.cumsum(weights[order]) - weights[order] / 2.0
    edges = np.searchsorted(passed, np.arange(1, bins) * weights.sum() / bins)
    parts = [part for part in np.split(order, edges) if weights[part].sum() > 0.0]
    found = tuple(
        Bin(
            len(part),
            int(labels[part].sum()),
            float(np.average(predicted[part], weights=weights[part])),
            float(np.average(labels[part], weights=weights[part])),
        )
        for part in parts
    )
    return found, [float(weights[part].sum() / weights.sum()) for part in parts]
