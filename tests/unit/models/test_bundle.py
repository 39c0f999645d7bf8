"""Golden rows: a bundle that serves in batches is proven on them both ways."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving import bundle
from models.serving.bundle import Golden
from models.serving.predictor import BatchScorer, RateTable

GOLDEN = Golden([0] * len(REQUEST_COLUMNS), [[0] * len(AD_COLUMNS)] * 2, [0.25, 0.25], [0.5, 0.5])


class Rates:
    """A click rate alone, and another in a batch."""

    def __init__(self, alone: float, batched: float) -> None:
        self.alone = alone
        self.batched = batched

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full(len(chosen), self.alone)

    def stage(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> int:
        return len(chosen)

    def run(self, staged: Sequence[int]) -> list[NDArray[np.float64]]:
        return [np.full(rows, self.batched) for rows in staged]


class Model:
    version = "m"

    def __init__(self, alone: float, batched: float) -> None:
        self._rates = Rates(alone, batched)

    def prepare(self, ads: NDArray[np.int64]) -> BatchScorer:
        return BatchScorer("m", self._rates, RateTable(np.full(len(ads), 0.5)))


def test_golden_rows_hold_alone_and_in_a_batch() -> None:
    bundle._check_golden("m", Model(0.25, 0.25), [GOLDEN])
    for alone, batched in ((0.26, 0.25), (0.25, 0.26)):
        with pytest.raises(BundleError, match="other probabilities"):
            bundle._check_golden("m", Model(alone, batched), [GOLDEN])
