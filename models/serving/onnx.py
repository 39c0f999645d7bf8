"""The trained predictor: statistics and numbers to features, ONNX Runtime to log-odds, calibration to probabilities."""

from collections.abc import Sequence

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving.predictor import Predictions
from models.serving.statistics import Statistics, sigmoid

INPUT = "features"
OUTPUT = "logit"
#: Key of the ONNX metadata that holds models.features.spec.FEATURE_HASH.
FEATURE_HASH_KEY = "feature_hash"


class Transform:
    """Raw rows to the model's float32 input: one column a group of statistics, then the numbers as they are."""

    def __init__(
        self, statistics: Statistics, request_numbers: Sequence[str] = (), ad_numbers: Sequence[str] = ()
    ) -> None:
        self.statistics = statistics
        self.request_numbers = tuple(request_numbers)
        self.ad_numbers = tuple(ad_numbers)
        self._request = np.array([REQUEST_COLUMNS.index(name) for name in request_numbers], dtype=np.intp)
        self._ad = np.array([AD_COLUMNS.index(name) for name in ad_numbers], dtype=np.intp)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the input's columns."""
        groups = tuple(group.name for group in self.statistics.groups)
        return (*groups, *self.request_numbers, *self.ad_numbers)

    def __call__(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the input, float32 (K, F), of request rows (K or 1, R) and ad rows (K, A)."""
        groups = len(self.statistics.groups)
        numbers = groups + len(self._request)
        features = np.empty((len(ads), numbers + len(self._ad)), dtype=np.float32)
        features[:, :groups] = self.statistics.deltas(request, ads)
        features[:, groups:numbers] = request[:, self._request]
        features[:, numbers:] = ads[:, self._ad]
        return features


class Calibration:
    """Platt scaling: log-odds times `slope` plus `intercept`."""

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        self.slope = slope
        self.intercept = intercept

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities."""
        return sigmoid(logits * self.slope + self.intercept)


class OnnxModel:
    """One probability: transform, ONNX graph, calibration. Runs in the caller's thread alone."""

    def __init__(self, model: bytes, transform: Transform, calibration: Calibration) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._transform = transform
        self._calibration = calibration

    @property
    def metadata(self) -> dict[str, str]:
        """Return the graph's metadata_props."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (K,), of request rows (K or 1, R) and ad rows (K, A)."""
        (output,) = self._session.run((OUTPUT,), {INPUT: self._transform(request, ads)})
        logits: NDArray[np.float64] = output[:, 0].astype(np.float64)
        return logits

    def probabilities(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return calibrated probabilities, float64 (K,)."""
        return self._calibration(self.logits(request, ads))


class OnnxPredictor:
    """Click rates from a model; conversion rates from a model where data sufficed for one, else smoothed rates."""

    def __init__(self, version: str, ctr: OnnxModel, cvr: OnnxModel | Statistics) -> None:
        self.version = version
        self._ctr = ctr
        self._cvr = cvr

    def predict(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        return self.predict_rows(request[np.newaxis, :], ads)

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        return Predictions(self._ctr.probabilities(requests, ads), self._cvr.probabilities(requests, ads))
