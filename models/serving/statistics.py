"""Statistics: log-odds learned for values and pairs of values, looked up for a matrix of candidates at once.

A group names request columns, ad columns or both; each combination of one request column with one ad column is a slot.
Every (group, request value, ad value) has one 64-bit key. Fitting them is models.training.shrinkage.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS

UInt64s = NDArray[np.uint64]

_ODD_1 = np.uint64(0x9E3779B97F4A7C15)
_ODD_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_HALF = np.uint64(32)
#: Above every key, so that a binary search never runs off the end.
_SENTINEL = np.uint64(2**64 - 1)
_NO_ADS = np.zeros((1, len(AD_COLUMNS)), dtype=np.int64)


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of statistic. Several columns of a side are a set: they share keys, and absent members count 0."""

    name: str
    request: tuple[str, ...] = ()
    ad: tuple[str, ...] = ()

    @property
    def is_set(self) -> bool:
        """Tell whether absent values (0) are left out instead of being a value of their own."""
        return len(self.request) > 1 or len(self.ad) > 1


class Slots:
    """The layout of a list of groups: for each slot, the columns it reads and its salt."""

    def __init__(self, groups: Sequence[Group]) -> None:
        pairs = [
            (number, request, ad)
            for number, group in enumerate(groups)
            for request in group.request or (None,)
            for ad in group.ad or (None,)
        ]
        self.groups = np.array([number for number, _, _ in pairs], dtype=np.intp)
        self.starts = np.searchsorted(self.groups, np.arange(len(groups)))
        self._request = np.array([0 if name is None else REQUEST_COLUMNS.index(name) for _, name, _ in pairs])
        self._ad = np.array([0 if name is None else AD_COLUMNS.index(name) for _, _, name in pairs])
        # A side that a group does not use is multiplied by zero.
        self._request_factor = np.array([0 if name is None else 1 for _, name, _ in pairs], dtype=np.uint64) * _ODD_1
        self._ad_factor = np.array([0 if name is None else 1 for _, _, name in pairs], dtype=np.uint64) * _ODD_2
        self._salts = np.array([_salt(groups[number].name) for number, _, _ in pairs], dtype=np.uint64)

    def keys(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> UInt64s:
        """Return the keys, shape (K, slots), of request rows (K or 1, R) and ad rows (K, A)."""
        left = request[:, self._request].view(np.uint64) * self._request_factor
        left ^= left >> _HALF
        left += self._salts
        right = ads[:, self._ad].view(np.uint64) * self._ad_factor
        right ^= right >> _HALF
        keys: UInt64s = (left ^ right) * _ODD_1
        keys ^= keys >> _HALF
        keys *= _ODD_2
        keys ^= keys >> _HALF
        return keys

    def present(self, request: NDArray[np.int64], ads: NDArray[np.int64], sets: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which slots hold something, shape (K, slots); `sets` tells by slot where 0 means absent."""
        has_request = (request[:, self._request] != 0) | (self._request_factor == 0)
        has_ad = (ads[:, self._ad] != 0) | (self._ad_factor == 0)
        filled: NDArray[np.bool_] = (has_request & has_ad) | ~sets
        return filled


class Statistics:
    """Learned log-odds by key. Unknown values count for 0, that is for what their group's prior says."""

    def __init__(self, groups: Sequence[Group], base_logit: float, keys: UInt64s, values: NDArray[np.float32]) -> None:
        order = np.argsort(keys)
        #: Groups that look at the request alone come first: they are looked up once for all candidates.
        self.groups = tuple(sorted(groups, key=lambda group: bool(group.ad)))
        self.base_logit = base_logit
        self.keys = np.append(keys[order], _SENTINEL)
        self.values = np.append(values[order], np.float32(0))
        shared = sum(not group.ad for group in self.groups)
        self._shared = Slots(self.groups[:shared])
        self._paired = Slots(self.groups[shared:])

    def deltas(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each group's log-odds against its prior, float32 (K, groups), for rows (K or 1, R) and (K, A)."""
        shared = len(self._shared.starts)
        deltas = np.empty((len(ads), len(self.groups)), dtype=np.float32)
        if shared:
            deltas[:, :shared] = self._sums(self._shared, request, _NO_ADS)
        if shared < len(self.groups):
            deltas[:, shared:] = self._sums(self._paired, request, ads)
        return deltas

    def logits(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the log-odds of each row, float64 (K,)."""
        logits: NDArray[np.float64] = self.deltas(request, ads).sum(axis=1, dtype=np.float64) + self.base_logit
        return logits

    def _sums(self, slots: Slots, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float32]:
        keys = slots.keys(request, ads)
        places = self.keys.searchsorted(keys)
        found = self.values[places] * (self.keys[places] == keys)
        sums: NDArray[np.float32] = np.add.reduceat(found, slots.starts, axis=1)
        return sums

    def probabilities(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probability of each row, float64 (K,)."""
        return sigmoid(self.logits(request, ads))

    def description(self) -> dict[str, Any]:
        """Return what `restore` needs besides the tables, fit for JSON."""
        return {"base_logit": self.base_logit, "groups": [msgspec.to_builtins(group) for group in self.groups]}

    def table(self) -> NDArray[np.void]:
        """Return keys and values as one structured array."""
        table = np.empty(len(self.keys) - 1, dtype=TABLE_DTYPE)
        table["key"], table["value"] = self.keys[:-1], self.values[:-1]
        return table


TABLE_DTYPE = np.dtype([("key", "<u8"), ("value", "<f4")])


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form of `Statistics.description`."""

    base_logit: float
    groups: tuple[Group, ...]


def restore(description: Description, table: NDArray[np.void]) -> Statistics:
    """Return the statistics of a description and its table.

    Raises:
        ValueError: a column that the feature definition lacks, or a table of another form.
    """
    if table.dtype != TABLE_DTYPE or table.ndim != 1 or not np.isfinite(table["value"]).all():
        raise ValueError("statistics table has another form")
    return Statistics(description.groups, description.base_logit, table["key"].copy(), table["value"].copy())


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities of log-odds, without overflow."""
    probabilities: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))
    return probabilities


def _salt(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
