"""The one interface the auction knows of a model: a predictor, and the scorer it makes for a snapshot's ads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

#: Gives one probability, float64 (K,), of an impression's feature row (R,) for K rows of a table of ads.
Score = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


class Predictions(NamedTuple):
    """Probabilities for K candidates: click given an impression, conversion given a click. float64, shape (K,)."""

    pctr: NDArray[np.float64]
    pcvr: NDArray[np.float64]


class RateTable:
    """A score that depends on the ad alone: one probability a row of the table of ads, float64 (C,)."""

    def __init__(self, rates: NDArray[np.float64]) -> None:
        self._rates = rates

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probabilities of the rows chosen."""
        return self._rates.take(chosen)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the candidates of one impression, out of a fixed table of ads: what depends on ads alone is done before.

    Never raises for any feature values; takes well under a millisecond.
    """

    version: str
    pctr: Score
    pcvr: Score

    def predict(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Predictions:
        """Score K candidates.

        Args:
            request: the impression's feature row, shape (R,), columns as models.features.columns.REQUEST_COLUMNS.
            chosen: the candidates' rows in the table that the scorer was prepared for, shape (K,).
        """
        return Predictions(self.pctr(request, chosen), self.pcvr(request, chosen))


class Predictor(Protocol):
    """Predicts click and conversion rates; knows no ads until it is prepared for some."""

    version: str

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A), columns as models.features.columns.AD_COLUMNS."""
        ...


class BatchPredictor(Predictor, Protocol):
    """A predictor that also scores rows of different impressions, for training and evaluation."""

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n, R) and ads of shape (n, A)."""
        ...


def predict(predictor: Predictor, request: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
    """Score one impression (R,) for each of K ads (K, A) just as serving does, without a table made before."""
    return predictor.prepare(ads).predict(request, np.arange(len(ads), dtype=np.int64))
