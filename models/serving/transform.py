"""Raw rows to a model's input: statistics and numbers, for rows of any kind or prepared for a table of ads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features.spec import Match
from models.serving.statistics import Statistics, UInt64s


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
        #: For each match the request's columns and the ad's.
        self.matched = [
            (np.array([columns.request.index(name) for name in match.request], np.intp), columns.ad.index(match.ad))
            for match in matches
        ]

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
        features = np.empty((len(ads), matches + len(self.matched)), dtype=np.float32)
        features[:, :groups] = self.statistics.deltas(request, ads)
        features[:, groups:numbers] = request[:, self.request_columns]
        features[:, numbers:matches] = ads[:, self.ad_columns]
        for place, (held, column) in enumerate(self.matched, matches):
            sought = ads[:, column, np.newaxis]
            features[:, place] = ((request[:, held] == sought) & (sought != 0)).sum(axis=1)
        return features


class Sheet(NamedTuple):
    """Memory for the input of K rows, used again by every call with K candidates.

    All but `features` and `keys` are views into these two. `keys` holds the request's half of all keys, the shared
    slots' last, then a row of pairs a candidate: the shared slots' are whole, so what is looked up lies together.
    """

    features: NDArray[np.float32]  # (K, F): the groups of the request alone, the other groups, the numbers
    shared: NDArray[np.float32]
    paired: NDArray[np.float32]
    numbers: NDArray[np.float32]
    keys: UInt64s
    halves: UInt64s  # of all slots
    paired_halves: UInt64s
    pairs: UInt64s  # (K, slots not shared)
    sought: UInt64s  # the shared slots' keys, then the pairs


class PreparedTransform:
    """A transform for one request at a time and ads of a fixed table (C, A). It gives what the transform gives.

    The ads' half of every key and the numbers of the ads are made once; all keys of a call are looked up together.
    """

    def __init__(self, transform: Transform, ads: NDArray[np.int64]) -> None:
        slots = transform.statistics.slots
        self._width = len(transform.names)
        self._statistics = transform.statistics
        self._request = transform.request_columns
        self._groups = len(transform.statistics.groups)
        self._shared_groups = slots.shared_groups
        self._shared = slots.shared
        self._shared_starts = slots.starts[: slots.shared_groups]
        self._paired_starts = slots.starts[slots.shared_groups :] - slots.shared
        self._ad_keys = slots.ad_keys(ads)
        self._template = np.zeros((len(ads), self._width), dtype=np.float32)
        numbers = self._groups + len(self._request)
        first = self._matches = numbers + len(transform.ad_columns)
        self._template[:, numbers:first] = ads[:, transform.ad_columns]
        self._matched = [(held, ads[:, column].copy()) for held, column in transform.matched]

    def sheet(self, rows: int) -> Sheet:
        """Return memory for calls with so many candidates."""
        shared, pairs = self._shared, self._ad_keys.shape[1]
        features = np.zeros((rows, self._width), dtype=np.float32)
        keys = np.zeros(pairs + shared + rows * pairs, dtype=np.uint64)
        return Sheet(
            features,
            features[:, : self._shared_groups],
            features[:, self._shared_groups : self._groups],
            features[:, self._groups : self._groups + len(self._request)],
            keys,
            keys[: pairs + shared],
            keys[:pairs],
            keys[pairs + shared :].reshape(rows, pairs),
            keys[pairs:],
        )

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64], sheet: Sheet) -> None:
        """Write the input into the sheet's `features`, (K, F), of a request row (R,) and K rows of the table."""
        self._template.take(chosen, 0, sheet.features, "clip")  # with any other mode numpy copies once more
        sheet.numbers[...] = request.take(self._request)
        for place, (held, values) in enumerate(self._matched, self._matches):
            seen = request.take(held)
            if seen.any():  # absent values (0) are no match
                sheet.features[:, place] = ((seen == values.take(chosen)[:, None]) & (seen != 0)).sum(axis=1)
        self._statistics.slots.request_keys(request, sheet.halves)
        pairs = sheet.pairs
        self._ad_keys.take(chosen, 0, pairs, "clip")
        pairs ^= sheet.paired_halves
        found = self._statistics.look_up(sheet.sought)
        if self._shared_groups:
            sheet.shared[...] = np.add.reduceat(found[: self._shared], self._shared_starts)
        if self._shared_groups < self._groups:
            np.add.reduceat(found[self._shared :].reshape(pairs.shape), self._paired_starts, 1, None, sheet.paired)
