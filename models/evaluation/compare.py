"""Scores predictors on the same labelled rows: what the nightly gate and `python -m models evaluate` look at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.errors import BundleError
from models.evaluation.metrics import Metrics, measure
from models.serving import bundle
from models.serving.predictor import BatchPredictor, Predictions
from models.serving.prior import ConstantPredictor
from models.training.dataset import Dataset
from models.training.rows import Rows

#: Rows scored at a time, which bounds memory.
_CHUNK = 20_000


def pctr(predictor: BatchPredictor, rows: Rows) -> NDArray[np.float64]:
    """Return the predicted click rate of each row."""
    return np.concatenate([np.empty(0), *(scored.pctr for scored in _chunks(predictor, rows))])


def pcvr(predictor: BatchPredictor, rows: Rows) -> NDArray[np.float64]:
    """Return the predicted conversion rate of each row."""
    return np.concatenate([np.empty(0), *(scored.pcvr for scored in _chunks(predictor, rows))])


def score(predictor: BatchPredictor, data: Dataset) -> dict[str, Any]:
    """Return a predictor's metrics as JSON: those of clicks at the top, those of conversions under `cvr`."""
    clicks = measure_rows(predictor, data.impressions)
    conversions = measure(pcvr(predictor, data.clicks), data.clicks.labels, data.clicks.weights)
    return {"version": predictor.version, **clicks.as_json(), "cvr": conversions.as_json()}


def evaluate(root: Path, data: Dataset) -> dict[str, Any]:
    """Score what served before the champion (its prior), the champion, and constants, on the same rows.

    `after` is None without a champion, and `before` are then the constants. `in_sample` tells that the champion was
    trained on some of the rows, so its scores flatter it.
    """
    constant = {"name": "constant", **score(ConstantPredictor(), data)}
    answer: dict[str, Any] = {
        "rows": len(data.impressions),
        "clicks": int(data.impressions.labels.sum()),
        "conversions": int(data.clicks.labels.sum()),
        "data": data.summary.as_json(),
        "constant": constant,
        "before": constant,
        "after": None,
        "in_sample": False,
        "fault": None,
    }
    try:
        version = registry.resolve(root, bundle.CHAMPION)
        champion = bundle.load(root, version) if version is not None else None
    except BundleError as fault:
        return {**answer, "fault": str(fault)}
    if champion is None:
        return answer
    return {
        **answer,
        "before": {"name": "prior", **score(champion.prior, data)},
        "after": {"name": bundle.CHAMPION, **score(champion.predictor, data)},
        "in_sample": data.summary.from_ms < trained_to_ms(champion),
    }


def trained_to_ms(champion: bundle.Bundle) -> int:
    """Return the end of what a bundle was trained on, exclusive; 0 where its manifest does not say."""
    data = champion.manifest.get("data")
    to_ms = data.get("to_ms") if isinstance(data, dict) else None
    return to_ms if isinstance(to_ms, int) else 0


def measure_rows(predictor: BatchPredictor, rows: Rows) -> Metrics:
    """Return the click metrics of a predictor on rows."""
    return measure(pctr(predictor, rows), rows.labels, rows.weights)


def _chunks(predictor: BatchPredictor, rows: Rows) -> Iterator[Predictions]:
    for begin in range(0, len(rows), _CHUNK):
        part = rows[slice(begin, begin + _CHUNK)]
        yield predictor.predict_rows(part.requests, part.ads)
