"""Statistics: log-odds learned for values and pairs of values, looked up for a matrix of candidates at once.

A group names request columns, ad columns or both; each combination of one request column with one ad column is a slot.
Every (group, request value, ad value) has one 64-bit key. Fitting them is models.training.shrinkage.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.spec import Group
from models.serving.predictor import RateTable, Score

UInt64s = NDArray[np.uint64]

# Constants are arrays without dimensions: with few candidates, half the time of a scalar operand is its conversion.
_ODD_1 = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
_ODD_2 = np.array(0xC2B2AE3D27D4EB4F, dtype=np.uint64)
_HALF = np.array(32, dtype=np.uint64)
_NEGATED_MAX = np.array(30.0)
_ONE = np.array(1.0)
#: Above every key, so that a binary search never runs off the end.
_SENTINEL = np.uint64(2**64 - 1)


class Columns(NamedTuple):
    """The names of the columns of rows: requests (n, R) and ads (n, A)."""

    request: tuple[str, ...]
    ad: tuple[str, ...]


PLATFORM_COLUMNS = Columns(REQUEST_COLUMNS, AD_COLUMNS)


class Slots:
    """The layout of a list of groups: for each slot, the columns it reads and its salt.

    The key of a slot is mix(request value + salt) ^ mix(ad value): each side is mixed once, however many rows the other
    has. Arrays run slots first, rows second, because sums over a group's slots are then sums of contiguous rows.
    Groups that look at the request alone must come first.
    """

    def __init__(self, groups: Sequence[Group], columns: Columns) -> None:
        pairs = [
            (number, request, ad)
            for number, group in enumerate(groups)
            for request in group.request or (None,)
            for ad in group.ad or (None,)
        ]
        numbers = np.array([number for number, _, _ in pairs], dtype=np.intp)
        #: The first slot of each group, and how many groups and slots look at the request alone.
        self.starts = np.searchsorted(numbers, np.arange(len(groups)))
        self.shared_groups = sum(not group.ad for group in groups)
        self.shared = sum(ad is None for _, _, ad in pairs)
        if any(not group.ad for group in groups[self.shared_groups :]):
            raise ValueError("groups that look at the request alone must come first")
        # The column after the last holds zeros, for a side that a group does not use.
        self._salts = np.array([[salt(groups[number].name)] for number in numbers], dtype=np.uint64).reshape(-1, 1)
        self._request = np.array(
            [len(columns.request) if name is None else columns.request.index(name) for _, name, _ in pairs],
            dtype=np.intp,
        )
        ads = np.array([columns.ad.index(name) for _, _, name in pairs if name is not None], dtype=np.intp)
        self._ad_used, self._ad = np.unique(ads, return_inverse=True)
        # One request's half of the keys, the shared slots' last. (value + salt) x odd is value x odd + salt x odd: a
        # slot that does not look at the request multiplies by 0, whatever column it is given.
        asked = np.roll(self._request, -self.shared)
        self._none = len(columns.request)
        self._asked = np.where(asked < self._none, asked, 0)
        self._factors = np.where(asked < self._none, _ODD_1, np.uint64(0))
        self._summands = np.roll(self._salts[:, 0], -self.shared) * _ODD_1

    def keys(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> tuple[UInt64s, UInt64s]:
        """Return the keys of the shared slots and of the others, each (slots, rows), of rows (K or 1, R) and (K, A)."""
        left = mix(_columns(request)[self._request].view(np.uint64) + self._salts)
        right = mix(ads.T[self._ad_used].view(np.uint64))
        return left[: self.shared], left[self.shared :] ^ right[self._ad]

    def request_keys(self, request: NDArray[np.int64], out: UInt64s) -> None:
        """Write one request's half of the keys of all slots, of a row (R,), the shared slots' last, into `out`."""
        np.multiply(request.take(self._asked).view(np.uint64), self._factors, out)
        out += self._summands
        _finish(out)

    def ad_keys(self, ads: NDArray[np.int64]) -> UInt64s:
        """Return the ads' half of the keys of the slots not shared, (C, slots): rows first, to be taken by row."""
        return np.ascontiguousarray(mix(ads.T[self._ad_used].view(np.uint64))[self._ad].T)

    def present(
        self, request: NDArray[np.int64], ads: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return, as `keys` does, which slots have no absent value (0) on the sides they use."""
        has_request = (_columns(request)[self._request] != 0) | (self._request == self._none)[:, np.newaxis]
        has_ad = ads.T[self._ad_used] != 0
        return has_request[: self.shared], has_request[self.shared :] & has_ad[self._ad]


def _columns(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows transposed, with a column of zeros after the last."""
    columns = np.zeros((rows.shape[1] + 1, rows.shape[0]), dtype=np.int64)
    columns[:-1] = rows.T
    return columns


def mix(values: UInt64s) -> UInt64s:
    """Scramble 64-bit values by a bijection in which every bit comes to depend on all."""
    mixed = values * _ODD_1
    _finish(mixed)
    return mixed


def _finish(mixed: UInt64s) -> None:
    mixed ^= mixed >> _HALF
    mixed *= _ODD_2
    mixed ^= mixed >> _HALF


class Statistics:
    """Learned log-odds by key. Unknown values count for 0, that is for what their group's prior says."""

    def __init__(
        self,
        groups: Sequence[Group],
        base_logit: float,
        keys: UInt64s,
        values: NDArray[np.float32],
        columns: Columns = PLATFORM_COLUMNS,
    ) -> None:
        order = np.argsort(keys)
        #: Groups that look at the request alone come first: they are looked up once for all candidates.
        self.groups = tuple(sorted(groups, key=lambda group: bool(group.ad)))
        self.base_logit = base_logit
        self.keys = np.append(keys[order], _SENTINEL)
        self.values = np.append(values[order], np.float32(0))
        self.columns = columns
        self.slots = Slots(self.groups, columns)

    def deltas(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each group's log-odds against its prior, float32 (K, groups), for rows (K or 1, R) and (K, A)."""
        slots = self.slots
        deltas = np.empty((len(self.groups), len(ads)), dtype=np.float32)
        shared_keys, paired_keys = slots.keys(request, ads)
        if slots.shared_groups:
            starts = slots.starts[: slots.shared_groups]
            deltas[: slots.shared_groups] = np.add.reduceat(self.look_up(shared_keys), starts, axis=0)
        if slots.shared_groups < len(self.groups):
            starts = slots.starts[slots.shared_groups :] - slots.shared
            deltas[slots.shared_groups :] = np.add.reduceat(self.look_up(paired_keys), starts, axis=0)
        return deltas.T

    def logits(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the log-odds of each row, float64 (K,)."""
        logits: NDArray[np.float64] = self.deltas(request, ads).sum(axis=1, dtype=np.float64) + self.base_logit
        return logits

    def look_up(self, keys: UInt64s) -> NDArray[np.float32]:
        """Return the value of each key, of the keys' shape; 0 where there is none."""
        places = self.keys.searchsorted(keys)
        found = self.values.take(places)
        found *= self.keys.take(places) == keys
        return found

    def probabilities(self, request: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probability of each row, float64 (K,)."""
        return sigmoid(self.logits(request, ads))

    def prepare(self, ads: NDArray[np.int64]) -> Score:
        """Return what gives the probabilities of ads of this table, (C, A)."""
        if not any(group.request for group in self.groups):
            return RateTable(self.probabilities(np.zeros((1, len(self.columns.request)), dtype=np.int64), ads))
        return lambda request, chosen: self.probabilities(request[np.newaxis, :], ads[chosen])

    def table(self) -> NDArray[np.void]:
        """Return keys and values as one structured array."""
        table = np.empty(len(self.keys) - 1, dtype=TABLE_DTYPE)
        table["key"], table["value"] = self.keys[:-1], self.values[:-1]
        return table


TABLE_DTYPE = np.dtype([("key", "<u8"), ("value", "<f4")])


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `restore` needs besides the table."""

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
    return of_negated(np.negative(logits))


def of_negated(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities of log-odds with the sign turned, in their memory."""
    odds: NDArray[np.float64] = np.minimum(logits, _NEGATED_MAX, out=logits)
    np.exp(odds, out=odds)
    odds += _ONE
    np.reciprocal(odds, out=odds)
    return odds


def salt(name: str) -> int:
    """Return the number that sets the keys of one kind of value apart from those of others."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
