"""Raw rows to a model's input: statistics and numbers, for rows of any kind or prepared for a table of ads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features.spec import Match
from models.serving.keys import MatchCounts, PreparedKeys, Shared
from models.serving.statistics import Statistics


class Transform:
    """Raw rows to the model's float32 input: one column a group of statistics, numbers as they are, matches counted."""

    def __init__(
        self,
        statistics: Statistics,
        request_numbers: Sequence[str] = (),
        ad_numbers: Sequence[str] = (),
        matches: Sequence[Match] = (),
    ) -> None:
        columns = statistics.columns
        self.statistics = statistics
        self.request_numbers = tuple(request_numbers)
        self.ad_numbers = tuple(ad_numbers)
        self.request_columns = np.array([columns.request.index(name) for name in request_numbers], dtype=np.intp)
        self.ad_columns = np.array([columns.ad.index(name) for name in ad_numbers], dtype=np.intp)
        self.matches = tuple(matches)
        self._counts = MatchCounts(matches, columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the input's columns."""
        groups = tuple(group.name for group in self.statistics.groups)
        return (*groups, *self.request_numbers, *self.ad_numbers, *(match.name for match in self.matches))

    def __call__(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the input, float32 (K, F), of request rows (K or 1, R) and ad rows (K, A)."""
        groups = len(self.statistics.groups)
        numbers = groups + len(self.request_columns)
        matches = numbers + len(self.ad_columns)
        features = np.empty((len(ads), matches + len(self.matches)), dtype=np.float32)
        features[:, :groups] = self.statistics.deltas(request, ads)
        features[:, groups:numbers] = request[:, self.request_columns]
        features[:, numbers:matches] = ads[:, self.ad_columns]
        features[:, matches:] = self._counts.of_rows(request, ads)
        return features


class Sheet(NamedTuple):
    """Memory for the input of K rows, used again by every call with K candidates; parts of it by what they tell."""

    features: NDArray[np.float32]  # (K, F): the groups of the request alone, the other groups, the numbers
    shared: NDArray[np.float32]
    numbers: NDArray[np.float32]
    matches: NDArray[np.float32]


class PreparedTransform:
    """A transform for one request at a time and ads of a fixed table (C, A). It gives what the transform gives.

    What depends on the ads alone is made once; all keys of a call are looked up together.
    """

    def __init__(self, transform: Transform, ads: NDArray[np.int64], shared: Shared) -> None:
        statistics = transform.statistics
        groups, columns = statistics.groups, statistics.columns
        self._keys = PreparedKeys.of(groups, transform.matches, columns, ads, shared)
        self._statistics = statistics
        self._request = transform.request_columns
        self._shared_starts, self._paired_starts = self._keys.starts
        self._shared_groups = len(self._shared_starts)
        self._paired = np.flatnonzero([bool(group.ad and group.request) for group in groups])
        nothing = np.zeros((1, len(columns.request)), dtype=np.int64)
        of_ads = [not group.request for group in groups]
        self._template = np.zeros((len(ads), len(transform.names)), dtype=np.float32)
        self._template[:, : len(groups)] = np.where(of_ads, statistics.deltas(nothing, ads), np.float32(0))
        self._numbers = slice(len(groups), len(groups) + len(self._request))
        self._matches = self._numbers.stop + len(transform.ad_columns)
        self._template[:, self._numbers.stop : self._matches] = ads[:, transform.ad_columns]

    def sheet(self, rows: int) -> Sheet:
        """Return memory for calls with so many candidates."""
        features = np.zeros((rows, self._template.shape[1]), dtype=np.float32)
        parts = slice(0, self._shared_groups), self._numbers, slice(self._matches, None)
        return Sheet(features, *(features[:, part] for part in parts))

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64], sheet: Sheet) -> None:
        """Write the input into the sheet's `features`, (K, F), of a request row (R,) and K rows of the table."""
        keys = self._keys.find(request, chosen)
        self._template.take(chosen, 0, sheet.features, "clip")  # with any other mode numpy copies once more
        sheet.numbers[...] = request.take(self._request)
        if keys.counts is not None:
            sheet.matches[...] = keys.counts
        found = self._statistics.look_up(self._keys.whole(keys, chosen))
        shared = len(found) - keys.pairs.size
        if self._shared_groups:
            sheet.shared[...] = np.add.reduceat(found[:shared], self._shared_starts)
        if len(self._paired):
            of_pairs = found[shared:].reshape(keys.pairs.shape)
            sheet.features[:, self._paired] = np.add.reduceat(of_pairs, self._paired_starts, 1)
