"""Statistics and trees at serving: raw rows to features, features to log-odds by ONNX Runtime."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.serving.keys import Shared
from models.serving.session import CPU, Device, Memory, Session
from models.serving.stack import Stack
from models.serving.transform import PreparedTransform, Sheet, Transform

#: Key of the ONNX metadata that holds models.features.columns.FEATURE_HASH.
FEATURE_HASH_KEY = "feature_hash"


class OnnxModel:
    """Transform and ONNX graph. On a CPU it runs in the caller's thread alone."""

    def __init__(self, model: bytes, transform: Transform, device: Device = CPU) -> None:
        self._session = Session(model, device.provider)
        self._transform = transform
        self._stack = Stack.on(device, self._session)

    @property
    def metadata(self) -> dict[str, str]:
        """Return the graph's metadata_props."""
        return self._session.metadata

    def logits(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log-odds, float64 (K,), of request rows (K or 1, R) and ad rows (K, A)."""
        logits: NDArray[np.float64] = self._session.run(self._transform(request, ads))[:, 0].astype(np.float64)
        return logits

    def prepare(self, ads: NDArray[np.int64], shared: Shared) -> "PreparedModel":
        """Return what gives the log-odds of ads of this table, (C, A); `shared` with other models of the table."""
        transform = PreparedTransform(self._transform, ads, shared)
        if self._stack is None:
            return PreparedModel(self._session, transform)
        return BatchedModel(self._session, transform, self._stack)


class PreparedModel:
    """A model's log-odds for ads of a fixed table. One thread at a time: memory for K rows is kept and used again."""

    def __init__(self, session: Session, transform: PreparedTransform) -> None:
        self._session = session
        self._transform = transform
        self._bound: dict[int, tuple[Memory, Sheet, NDArray[np.float32]]] = {}

    def logits(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return log-odds, float32 (K,), of a request row (R,) and K rows of the table; the next call overwrites them.

        K is 1 or more.
        """
        memory, sheet, output = self._bound.get(len(chosen)) or self._bind(len(chosen))
        self._transform(request, chosen, sheet)
        memory()
        return output

    def _bind(self, rows: int) -> tuple[Memory, Sheet, NDArray[np.float32]]:
        sheet = self._transform.sheet(rows)
        memory = self._session.bind(sheet.features)
        self._bound[rows] = memory, sheet, memory.output[:, 0]
        return self._bound[rows]


class BatchedModel(PreparedModel):
    """A prepared model that can also run rows of several impressions at once: `stage` here, `run` in another thread."""

    def __init__(self, session: Session, transform: PreparedTransform, stack: Stack) -> None:
        super().__init__(session, transform)
        self._stack = stack
        self._sheets: dict[int, Sheet] = {}

    def stage(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the graph's input, float32 (K, F), of a request row (R,) and K rows of the table."""
        sheet = self._sheets.get(len(chosen))
        if sheet is None:
            sheet = self._sheets[len(chosen)] = self._transform.sheet(len(chosen))
        self._transform(request, chosen, sheet)
        return sheet.features.copy()

    def run(self, staged: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the log-odds, float32 (K,), of each impression that was staged."""
        return [found[:, 0] for found in self._stack(staged)]
