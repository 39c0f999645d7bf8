"""What predicts for a day that is bought: a model, or what only the market knows."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loadtest.learning.supply import Supply
from loadtest.learning.told import Placed
from models.serving.predictor import BatchPredictor, Predictions


class Policy(Protocol):
    """Predicts for the candidates of a stretch of the day, and is told what came of the bids."""

    def predict(self, requests: NDArray[np.int64], part: slice) -> Predictions:
        """Return the probabilities of a slice of all candidates.

        `requests` (N, R) are all impressions; the rows of these candidates hold what is known of people by now.
        """
        ...

    def told(self, placed: Placed) -> None:
        """Take note of a bid's outcome."""
        ...


class Modelled:
    """A model of the platform. What came of bids it reads in the features."""

    def __init__(self, predictor: BatchPredictor, of: Supply) -> None:
        self._predictor = predictor
        self._of = of

    def predict(self, requests: NDArray[np.int64], part: slice) -> Predictions:
        """Predict as the bidder would."""
        return self._predictor.predict_rows(requests[self._of.owners[part]], self._of.ads[self._of.creatives[part]])

    def told(self, placed: Placed) -> None:
        """Learn nothing before the night."""


class Fixed:
    """Probabilities of all candidates (M,), known in advance."""

    def __init__(self, found: Predictions) -> None:
        self._found = found

    def predict(self, requests: NDArray[np.int64], part: slice) -> Predictions:
        """Return them."""
        return Predictions(self._found.pctr[part], self._found.pcvr[part])

    def told(self, placed: Placed) -> None:
        """Learn nothing."""
