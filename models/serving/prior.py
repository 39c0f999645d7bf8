"""The predictor that needs no model: rates shrunk along the hierarchy of ads, or constants before there is data.

It serves until the first model is published, and whenever too little time is left for the model.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import MediaFormat
from models.features.columns import AD_COLUMNS, FORMAT_CODES
from models.serving.predictor import Predictions, RateTable, Scorer
from models.serving.statistics import Statistics

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

    version = "constant"

    def __init__(self, ctr_by_format: Mapping[MediaFormat, float] = CTR_BY_FORMAT, cvr: float = CVR) -> None:
        self._ctr = np.full(max(FORMAT_CODES.values()) + 1, min(ctr_by_format.values()))
        for media, rate in ctr_by_format.items():
            self._ctr[FORMAT_CODES[media]] = rate
        self._cvr = cvr

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        rates = self.predict_rows(ads[:0], ads)
        return Scorer(self.version, RateTable(rates.pctr), RateTable(rates.pcvr))

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        formats = np.clip(ads[:, _FORMAT], 0, len(self._ctr) - 1)
        return Predictions(self._ctr[formats], np.full(len(ads), self._cvr))


class PriorPredictor:
    """Smoothed click and conversion rates by format, advertiser, line item and creative; constants without data."""

    def __init__(self, ctr: Statistics | None = None, cvr: Statistics | None = None, version: str = "prior") -> None:
        self.version = version
        self._ctr = ctr
        self._cvr = cvr
        self._constants = ConstantPredictor()

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        constants = self._constants.prepare(ads)
        return Scorer(
            self.version,
            constants.pctr if self._ctr is None else self._ctr.prepare(ads),
            constants.pcvr if self._cvr is None else self._cvr.prepare(ads),
        )

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        constants = self._constants.predict_rows(requests, ads)
        return Predictions(
            constants.pctr if self._ctr is None else self._ctr.probabilities(requests, ads),
            constants.pcvr if self._cvr is None else self._cvr.probabilities(requests, ads),
        )
