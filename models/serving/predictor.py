"""The one interface the auction knows of a model, and the predictor that needs none."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Predictions(NamedTuple):
    """Probabilities for K candidates: click given an impression, conversion given a click. float64, shape (K,)."""

    pctr: NDArray[np.float64]
    pcvr: NDArray[np.float64]


class Predictor(Protocol):
    """Scores the candidates of one impression. Never raises for any feature values; takes well under a millisecond."""

    version: str

    def predict(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score K candidates.

        Args:
            request: the impression's feature row, shape (R,), columns as models.features.columns.REQUEST_COLUMNS.
            ads: the candidates' feature rows, shape (K, A), columns as models.features.columns.AD_COLUMNS.
        """
        ...


class BatchPredictor(Predictor, Protocol):
    """A predictor that also scores rows of different impressions, for training and evaluation."""

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n, R) and ads of shape (n, A)."""
        ...
