"""How good probabilities are: discrimination (AUC), and how far they can be taken literally (log loss, pcoc, ECE)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 10
_EDGE = 1e-7


class Bin(NamedTuple):
    """A tenth of the rows by prediction: what was predicted on average, and the rate that came."""

    rows: int
    predicted: float
    observed: float


class Metrics(NamedTuple):
    """Scores of one predictor on labelled rows; None where the rows do not define a score.

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


def measure(predicted: NDArray[np.float64], labels: NDArray[np.bool_]) -> Metrics:
    """Score n predictions against n labels."""
    rows, positives = len(labels), int(labels.sum())
    if rows == 0:
        return Metrics(0, 0, None, None, None, None, None, ())
    reliability = _reliability(predicted, labels)
    loss = float(losses(predicted, labels).mean())
    rate = positives / rows
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < positives < rows else None
    return Metrics(
        rows=rows,
        clicks=positives,
        log_loss=loss,
        normalised_entropy=None if entropy is None else float(loss / entropy),
        auc=auc(predicted, labels),
        pcoc=float(predicted.sum()) / positives if positives else None,
        ece=sum(entry.rows * abs(entry.predicted - entry.observed) for entry in reliability) / rows,
        reliability=reliability,
    )


def losses(predicted: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each row's log loss in nats, float64 (n,)."""
    clipped = np.clip(predicted, _EDGE, 1 - _EDGE)
    each: NDArray[np.float64] = -np.where(labels, np.log(clipped), np.log1p(-clipped))
    return each


def auc(predicted: NDArray[np.float64], labels: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve, ties counting half; None unless both labels occur."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def _reliability(predicted: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[Bin, ...]:
    order = np.argsort(predicted, kind="stable")
    return tuple(
        Bin(len(part), float(predicted[part].mean()), float(labels[part].mean()))
        for part in np.array_split(order, BINS)
        if len(part)
    )
