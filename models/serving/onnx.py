"""The trained predictor: features to log-odds by ONNX Runtime, calibration to probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.serving.calibration import HierarchicalCalibration, PreparedCalibration
from models.serving.predictor import BatchScore, BatchScorer, Predictions, Score, Scorer
from models.serving.session import CPU, Device, Memory, Provider, Session
from models.serving.stack import Stack
from models.serving.statistics import Statistics
from models.serving.transform import PreparedTransform, Sheet, Transform

INPUT = "features"
OUTPUT = "logit"
#: Key of the ONNX metadata that holds models.features.columns.FEATURE_HASH.
FEATURE_HASH_KEY = "feature_hash"


class OnnxModel:
    """One probability: transform, ONNX graph, calibration. On a CPU it runs in the caller's thread alone."""

    def __init__(
        self, model: bytes, transform: Transform, calibration: HierarchicalCalibration, device: Device = CPU
    ) -> None:
        self._session = Session(model, device.provider)
        self._transform = transform
        self._calibration = calibration
        self._stack: Stack | None = None
        if device.batches(self._session.provider):
            self._stack = Stack(self._session, device.rows_max)
            self._stack.warm_up()

    @property
    def metadata(self) -> dict[str, str]:
        """Return the graph's metadata_props."""
        return self._session.metadata

    @property
    def provider(self) -> Provider:
        """Return where the graph runs."""
        return self._session.provider

    def logits(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (K,), of request rows (K or 1, R) and ad rows (K, A)."""
        output = self._session.run(OUTPUT, {INPUT: self._transform(request, ads)})
        logits: NDArray[np.float64] = output[:, 0].astype(np.float64)
        return logits

    def probabilities(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return calibrated probabilities, float64 (K,)."""
        return self._calibration(self.logits(request, ads), request, ads)

    def prepare(self, ads: NDArray[np.int64]) -> Score:
        """Return what gives the calibrated probabilities of ads of this table, (C, A)."""
        transform, calibration = PreparedTransform(self._transform, ads), self._calibration.prepare(ads)
        if self._stack is None:
            return PreparedModel(self._session, transform, calibration)
        return BatchedModel(self._session, transform, calibration, self._stack)


class PreparedModel:
    """A model's probabilities for ads of a fixed table. One thread at a time: memory for K rows is kept, used again."""

    def __init__(self, session: Session, transform: PreparedTransform, calibration: PreparedCalibration) -> None:
        self._session = session
        self._transform = transform
        self._calibration = calibration
        self._bound: dict[int, tuple[Memory, Sheet, NDArray[np.float32]]] = {}

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return calibrated probabilities, float64 (K,), of a request row (R,) and K rows of the table."""
        rows = len(chosen)
        if not rows:
            return np.empty(0)
        memory, sheet, output = self._bound.get(rows) or self._bind(rows)
        self._transform(request, chosen, sheet)
        memory()
        return self._calibration(output, self._calibration.offsets(request, chosen))

    def _bind(self, rows: int) -> tuple[Memory, Sheet, NDArray[np.float32]]:
        sheet = self._transform.sheet(rows)
        memory = self._session.bind({INPUT: sheet.features})
        self._bound[rows] = memory, sheet, memory.outputs[OUTPUT][:, 0]
        return self._bound[rows]


class Staged(NamedTuple):
    """One impression's candidates: the graph's input, float32 (K, F), and the calibration's offsets, float64 (K,)."""

    features: NDArray[np.float32]
    offsets: NDArray[np.float64]


class BatchedModel(PreparedModel):
    """A prepared model that can also run rows of several impressions at once: `stage` here, `run` in another thread."""

    def __init__(
        self, session: Session, transform: PreparedTransform, calibration: PreparedCalibration, stack: Stack
    ) -> None:
        super().__init__(session, transform, calibration)
        self._stack = stack
        self._sheets: dict[int, Sheet] = {}

    def stage(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Staged:
        """Return what `run` needs of a request row (R,) and K rows of the table."""
        sheet = self._sheets.get(len(chosen))
        if sheet is None:
            sheet = self._sheets[len(chosen)] = self._transform.sheet(len(chosen))
        self._transform(request, chosen, sheet)
        return Staged(sheet.features.copy(), self._calibration.offsets(request, chosen))

    def run(self, staged: Sequence[Staged]) -> list[NDArray[np.float64]]:
        """Return calibrated probabilities, float64 (K,), of each impression that was staged."""
        found = self._stack([{INPUT: one.features} for one in staged], OUTPUT)
        return [self._calibration(logits[:, 0], one.offsets) for logits, one in zip(found, staged, strict=True)]


class OnnxPredictor:
    """Click rates from a model; conversion rates from a model where data sufficed for one, else smoothed rates."""

    def __init__(self, version: str, ctr: OnnxModel, cvr: OnnxModel | Statistics) -> None:
        self.version = version
        self._ctr = ctr
        self._cvr = cvr

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        ctr, cvr = self._ctr.prepare(ads), self._cvr.prepare(ads)
        kind = BatchScorer if isinstance(ctr, BatchScore) or isinstance(cvr, BatchScore) else Scorer
        return kind(self.version, ctr, cvr, self._ctr.provider)

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        return Predictions(self._ctr.probabilities(requests, ads), self._cvr.probabilities(requests, ads))
