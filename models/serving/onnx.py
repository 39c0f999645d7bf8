"""The trained predictor: features to log-odds by ONNX Runtime, calibration to probabilities."""

from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from models.serving.predictor import Predictions, Score, Scorer
from models.serving.statistics import Statistics, sigmoid
from models.serving.transform import PreparedTransform, Sheet, Transform

INPUT = "features"
OUTPUT = "logit"
#: Key of the ONNX metadata that holds models.features.columns.FEATURE_HASH.
FEATURE_HASH_KEY = "feature_hash"


class Calibration:
    """Platt scaling: log-odds times `slope` plus `intercept`."""

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        self.slope = slope
        self.intercept = intercept
        self._slope = np.array(slope)
        self._intercept = np.array(intercept)

    def __call__(self, logits: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities."""
        scaled: NDArray[np.float64] = logits * self._slope
        scaled += self._intercept
        return sigmoid(scaled)


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

    def prepare(self, ads: NDArray[np.int64]) -> Score:
        """Return what gives the calibrated probabilities of ads of this table, (C, A)."""
        return PreparedModel(self._session, PreparedTransform(self._transform, ads), self._calibration)


class PreparedModel:
    """A model's probabilities for ads of a fixed table. One thread at a time: memory for K rows is kept and used again.

    A run on bound memory does what a run with passed arrays does, and costs about half.
    """

    def __init__(self, session: Any, transform: PreparedTransform, calibration: Calibration) -> None:
        self._session = session
        self._transform = transform
        self._calibration = calibration
        self._bound: dict[int, tuple[Any, Sheet, NDArray[np.float32]]] = {}

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return calibrated probabilities, float64 (K,), of a request row (R,) and K rows of the table."""
        rows = len(chosen)
        if not rows:
            return np.empty(0)
        binding, sheet, output = self._bound.get(rows) or self._bind(rows)
        self._transform(request, chosen, sheet)
        self._session.run_with_iobinding(binding)
        return self._calibration(output)

    def _bind(self, rows: int) -> tuple[Any, Sheet, NDArray[np.float32]]:
        sheet = self._transform.sheet(rows)
        features, output = sheet.features, np.zeros(rows, dtype=np.float32)
        binding = self._session.io_binding()
        binding.bind_input(INPUT, "cpu", 0, np.float32, features.shape, features.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, (rows, 1), output.ctypes.data)
        self._bound[rows] = binding, sheet, output
        return self._bound[rows]


class OnnxPredictor:
    """Click rates from a model; conversion rates from a model where data sufficed for one, else smoothed rates."""

    def __init__(self, version: str, ctr: OnnxModel, cvr: OnnxModel | Statistics) -> None:
        self.version = version
        self._ctr = ctr
        self._cvr = cvr

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        return Scorer(self.version, self._ctr.prepare(ads), self._cvr.prepare(ads))

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        return Predictions(self._ctr.probabilities(requests, ads), self._cvr.probabilities(requests, ads))
