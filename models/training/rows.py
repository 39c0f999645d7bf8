"""Labelled rows: what training and evaluation pass around."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in order of time: at_ms (n,), requests (n, R), ads (n, A), labels (n,) and weights (n,)."""

    at_ms: NDArray[np.int64]
    requests: NDArray[np.int64]
    ads: NDArray[np.int64]
    labels: NDArray[np.bool_]
    weights: NDArray[np.float64]  # how many rows each stands for

    def __len__(self) -> int:
        return len(self.at_ms)

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> "Rows":
        return Rows(self.at_ms[part], self.requests[part], self.ads[part], self.labels[part], self.weights[part])

    def apart(self, block: "Rows") -> NDArray[np.bool_]:
        """Return which rows, (n,), are earlier or later than all of a block's."""
        apart: NDArray[np.bool_] = (self.at_ms < block.at_ms[0]) | (self.at_ms > block.at_ms[-1])
        return apart
