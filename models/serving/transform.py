"""Raw rows to a model's input: statistics and numbers, for rows of any kind or prepared for a table of ads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving.statistics import Statistics


class Transform:
    """Raw rows to the model's float32 input: one column a group of statistics, then the numbers as they are."""

    def __init__(
        self, statistics: Statistics, request_numbers: Sequence[str] = (), ad_numbers: Sequence[str] = ()
    ) -> None:
        self.statistics = statistics
        self.request_numbers = tuple(request_numbers)
        self.ad_numbers = tuple(ad_numbers)
        self.request_columns = np.array([REQUEST_COLUMNS.index(name) for name in request_numbers], dtype=np.intp)
        self.ad_columns = np.array([AD_COLUMNS.index(name) for name in ad_numbers], dtype=np.intp)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the input's columns."""
        groups = tuple(group.name for group in self.statistics.groups)
        return (*groups, *self.request_numbers, *self.ad_numbers)

    def __call__(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the input, float32 (K, F), of request rows (K or 1, R) and ad rows (K, A)."""
        groups = len(self.statistics.groups)
        numbers = groups + len(self.request_columns)
        features = np.empty((len(ads), numbers + len(self.ad_columns)), dtype=np.float32)
        features[:, :groups] = self.statistics.deltas(request, ads)
        features[:, groups:numbers] = request[:, self.request_columns]
        features[:, numbers:] = ads[:, self.ad_columns]
        return features


class PreparedTransform:
    """A transform for one request at a time and ads of a fixed table (C, A). It gives what the transform gives.

    The ads' half of every key and the numbers of the ads are made once; all keys of a call are looked up together.
    """

    def __init__(self, transform: Transform, ads: NDArray[np.int64]) -> None:
        slots = transform.statistics.slots
        self.width = len(transform.names)
        self._statistics = transform.statistics
        self._request = transform.request_columns
        self._groups = len(transform.statistics.groups)
        self._numbers = self._groups + len(self._request)
        self._shared_groups = slots.shared_groups
        self._shared = slots.shared
        self._shared_starts = slots.starts[: slots.shared_groups]
        self._paired_starts = slots.starts[slots.shared_groups :] - slots.shared
        self._ad_keys = slots.ad_keys(ads)
        self._template = np.zeros((len(ads), self.width), dtype=np.float32)
        self._template[:, self._numbers :] = ads[:, transform.ad_columns]

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Write the input into `features`, float32 (K, F), of a request row (R,) and K rows of the table."""
        shared, groups = self._shared, self._shared_groups
        features[:] = self._template.take(chosen, axis=0)
        features[:, self._groups : self._numbers] = request.take(self._request)
        halves = self._statistics.slots.request_keys(request)
        pairs = self._ad_keys.take(chosen, axis=0)
        pairs ^= halves[shared:]
        found = self._statistics.look_up(np.concatenate((halves[:shared], pairs.ravel())))
        if groups:
            features[:, :groups] = np.add.reduceat(found[:shared], self._shared_starts)
        if groups < self._groups:
            paired = found[shared:].reshape(pairs.shape)
            np.add.reduceat(paired, self._paired_starts, axis=1, out=features[:, groups : self._groups])
