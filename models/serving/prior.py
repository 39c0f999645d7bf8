"""The predictors that need no nightly: regression learned online, rates shrunk along the hierarchy of ads, constants.

They serve until the first model is published, and whenever too little time is left for the model.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import MediaFormat
from models.features.columns import AD_COLUMNS, FORMAT_CODES
from models.serving.keys import Shared
from models.serving.linear import LinearModel, PreparedLinear
from models.serving.predictor import BatchPredictor, Predictions, RateTable, Scorer
from models.serving.statistics import Statistics, sigmoid

#: Clicks per impression before anything is known; generous, so that new line items get to be seen.
CTR_BY_FORMAT: Mapping[MediaFormat, float] = {
    MediaFormat.BANNER: 0.01,
    MediaFormat.VIDEO: 0.015,
    MediaFormat.AUDIO: 0.005,
    MediaFormat.NATIVE: 0.01,
}
#: Conversions per click before anything is known.
CVR = 0.05

_FORMAT = AD_COLUMNS.index("format")


class ConstantPredictor:
    """One click rate a format, one conversion rate: what is believed before the first impression."""

    def __init__(self, version: str = "constant") -> None:
        self.version = version
        self._ctr = np.full(max(FORMAT_CODES.values()) + 1, min(CTR_BY_FORMAT.values()))
        for media, rate in CTR_BY_FORMAT.items():
            self._ctr[FORMAT_CODES[media]] = rate

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        rates = self.predict_rows(ads[:0], ads)
        return Scorer(self.version, RateTable(rates.pctr), RateTable(rates.pcvr))

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        formats = np.clip(ads[:, _FORMAT], 0, len(self._ctr) - 1)
        return Predictions(self._ctr[formats], np.full(len(ads), CVR))


class PriorPredictor:
    """Smoothed click and conversion rates by format, advertiser, line item and creative."""

    def __init__(self, ctr: Statistics, cvr: Statistics, version: str) -> None:
        self.version = version
        self._ctr = ctr
        self._cvr = cvr

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        return Scorer(self.version, self._ctr.prepare(ads), self._cvr.prepare(ads))

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        return Predictions(self._ctr.probabilities(requests, ads), self._cvr.probabilities(requests, ads))


class Offsets(NamedTuple):
    """The log-odds from which clicks and conversions are learned online, float64 (n,): those of the constants."""

    ctr: NDArray[np.float64]
    cvr: NDArray[np.float64]


def offsets(ads: NDArray[np.int64]) -> Offsets:
    """Return the log-odds from which online learning starts, of ad rows (n, A)."""
    return Offsets(*(np.log(rates / (1.0 - rates)) for rates in ConstantPredictor().predict_rows(ads[:0], ads)))


class LinearScore:
    """A regression's rates of ads of a fixed table."""

    def __init__(self, prepared: PreparedLinear) -> None:
        self.prepared = prepared

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return probabilities, float64 (K,)."""
        return sigmoid(self.prepared.logits(request, chosen))


class OnlinePredictor:
    """Regressions, of the same coordinates, learned while impressions come; where one has not learned enough,
    `before` answers.
    """

    def __init__(self, version: str, ctr: LinearModel | None, cvr: LinearModel | None, before: BatchPredictor) -> None:
        self.version = version
        self._ctr = ctr
        self._cvr = cvr
        self._before = before

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        starts, shared, before = offsets(ads), Shared(), self._before.prepare(ads)
        return Scorer(
            self.version,
            before.pctr if self._ctr is None else LinearScore(self._ctr.prepare(ads, shared, starts.ctr)),
            before.pcvr if self._cvr is None else LinearScore(self._cvr.prepare(ads, shared, starts.cvr)),
        )

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        before, starts = self._before.predict_rows(requests, ads), offsets(ads)
        return Predictions(
            before.pctr if self._ctr is None else sigmoid(self._ctr.logits(requests, ads) + starts.ctr),
            before.pcvr if self._cvr is None else sigmoid(self._cvr.logits(requests, ads) + starts.cvr),
        )
