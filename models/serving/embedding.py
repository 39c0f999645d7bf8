"""Raw rows to the network's inputs: values to learned vectors, scaled numbers, matches, the history attended to.

A field is a column, or a set of columns whose vectors are added up. Most fields have a vocabulary, each value its own
row of the table, and one row that is learned for unknown values; a field of very many values is hashed to its own range
of rows. Everything here is a lookup; nothing is learned (models.training.network).
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import log1p
from operator import itemgetter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.spec import Match
from models.serving.keys import MatchCounts
from models.serving.statistics import Columns, UInt64s, mix, salt

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]

#: Ages of a user's impressions fall into classes, each twice as long as the one before: seconds up to three years.
AGE_CLASSES = 28
_AGES = [2**age - 1 for age in range(1, AGE_CLASSES)]
#: Values of a column whose rows of the table are remembered.
_REMEMBERED = 65_536
_BITS = 64
_ZERO = np.array(0, dtype=np.float32)  # without dimensions: a scalar operand would be converted at each call
_ONE = np.array(1, dtype=np.float32)
_PRODUCT_MAX = np.array(60, dtype=np.float32)
_SENTINEL = np.uint64(2**64 - 1)  # above every key, so that a binary search never runs off the end


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a field's vectors lie: rows `first` to `first + rows` of the table, the leading `width` columns.

    With `bits` values are hashed to 2 ** bits rows. Without, `first` is the row of unknown values, the others those of
    the vocabulary. In a set of several columns 0 means absent and counts for nothing; in a single one it is a value.
    """

    columns: tuple[str, ...]
    first: int
    rows: int
    width: int
    bits: int = 0

    @property
    def name(self) -> str:
        """Return a name that no other field has."""
        return "+".join(self.columns)


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number's scaling: (log(1 + x) - mean) * scale, and a flag for what is missing, which negative values are."""

    column: str
    mean: float
    scale: float


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a request, or of an ad."""

    columns: tuple[str, ...]
    fields: tuple[Field, ...]
    numbers: tuple[Number, ...]

    @property
    def width(self) -> int:
        """Return how many inputs the side has."""
        return sum(field.width for field in self.fields) + 2 * len(self.numbers)


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The user's latest impressions: columns of their ids and ages (seconds), and the ads' field that has those ids."""

    ids: tuple[str, ...]
    ages: tuple[str, ...]
    field: int


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All inputs in order: the request's, the ad's, one a match, and what attention finds in the history."""

    request: Side
    ad: Side
    matches: tuple[Match, ...]
    history: History | None

    @property
    def history_width(self) -> int:
        """Return how many inputs come from the history."""
        return self.ad.fields[self.history.field].width if self.history else 0

    @property
    def width(self) -> int:
        """Return how many inputs there are."""
        return self.request.width + self.ad.width + len(self.matches) + self.history_width


class Tables(NamedTuple):
    """What is learned of values: `keys` in ascending order and the table's row of each."""

    keys: UInt64s
    places: NDArray[np.int32]
    vectors: Floats  # (rows, widest field); row 0 is zeros
    ages: Floats  # (AGE_CLASSES, history's width), added to an impression's vector
    query: Floats  # (history's width, history's width): an ad's vector to what it looks for


class _Vocabulary:
    """The table's rows by the keys of values."""

    def __init__(self, tables: Tables) -> None:
        self._keys = np.append(tables.keys, _SENTINEL)
        self._places = np.append(tables.places, np.int32(0)).astype(np.int64)

    def places(self, sought: UInt64s, otherwise: Int64s | np.int64) -> Int64s:
        """Return the rows of keys, in the shape of `sought`; `otherwise` where there is none."""
        at = self._keys.searchsorted(sought)
        return np.where(self._keys.take(at) == sought, self._places.take(at), otherwise)


class SideInputs:
    """One side's rows to the table's rows, to inputs."""

    def __init__(self, side: Side, tables: Tables) -> None:
        self.width = side.width
        self._vocabulary = _Vocabulary(tables)
        self._vectors = tables.vectors
        slots = [(field, column) for field in side.fields for column in field.columns]
        self._columns = np.array([side.columns.index(column) for _, column in slots], dtype=np.intp)
        self._salts = np.array([salt(field.name) for field, _ in slots], dtype=np.uint64)
        self._first = np.array([field.first for field, _ in slots], dtype=np.int64)
        self._shifts = np.array([_BITS - field.bits if field.bits else 0 for field, _ in slots], dtype=np.uint64)
        self._hashed = np.flatnonzero([field.bits > 0 for field, _ in slots])
        self._single = np.array([len(field.columns) == 1 for field, _ in slots], dtype=np.bool_)
        sizes = [len(field.columns) for field in side.fields]
        self._starts = np.cumsum([0, *sizes[:-1]], dtype=np.intp) if max(sizes, default=1) > 1 else None
        table_width = tables.vectors.shape[1]
        self._kept = np.array(
            [number * table_width + place for number, field in enumerate(side.fields) for place in range(field.width)],
            dtype=np.intp,
        )
        self._number_columns = np.array([side.columns.index(number.column) for number in side.numbers], dtype=np.intp)
        self._means = np.array([number.mean for number in side.numbers], dtype=np.float32)
        self._scales = np.array([number.scale for number in side.numbers], dtype=np.float32)
        self._known = [_Known(column) for column in self._columns.tolist()]
        self._scaled = [
            (place, float(mean), float(scale))
            for place, mean, scale in zip(self._number_columns.tolist(), self._means, self._scales, strict=True)
        ]

    def places(self, rows: Int64s) -> Int64s:
        """Return the table's row of every value, (n, slots): slots are the fields' columns in order, 0 is absent."""
        values = rows.take(self._columns, 1)
        mixed = mix(values.view(np.uint64) + self._salts)
        found = self._vocabulary.places(mixed, self._first)
        if len(self._hashed):
            hashed = mixed[:, self._hashed] >> self._shifts[self._hashed]
            found[:, self._hashed] = self._first[self._hashed] + hashed.astype(np.int64)
        if self._starts is not None:
            found *= (values != 0) | self._single
        return found

    def numbers(self, rows: Int64s) -> Floats:
        """Return the numbers' inputs (n, 2 * numbers): all scaled, then a flag for each that is missing."""
        values = rows.take(self._number_columns, 1)
        missing = values < 0
        scaled = values.astype(np.float32)
        np.maximum(scaled, _ZERO, out=scaled)
        np.log1p(scaled, scaled)
        scaled -= self._means
        scaled *= self._scales
        np.copyto(scaled, _ZERO, where=missing)
        return np.concatenate((scaled, missing), axis=1)

    def __call__(self, rows: Int64s) -> Floats:
        """Return the side's inputs, float32 (n, width)."""
        vectors = self._vectors.take(self.places(rows), 0)
        if self._starts is not None:
            vectors = np.add.reduceat(vectors, self._starts, 1)
        fields = vectors.reshape(len(rows), -1).take(self._kept, 1)
        return np.concatenate((fields, self.numbers(rows)), axis=1) if len(self._means) else fields

    def one(self, row: Int64s, values: Sequence[int], out: Floats) -> None:
        """Write the inputs of one row (R,), which are its `values`, to `out` (width,).

        For so few values dictionaries and Python's arithmetic take half the time of numpy's calls.
        """
        fields = len(self._kept)
        if fields:
            places = _remembered(self._known, values, lambda: self.places(row[np.newaxis])[0])
            vectors = self._vectors.take(places, 0)
            if self._starts is not None:
                vectors = np.add.reduceat(vectors, self._starts, 0)
            vectors.reshape(-1).take(self._kept, out=out[:fields], mode="clip")
        numbers, flags = [], []
        for place, mean, scale in self._scaled:
            value = values[place]
            numbers.append((log1p(value) - mean) * scale if value >= 0 else 0.0)
            flags.append(value < 0)
        out[fields:] = numbers + flags


class HistoryInputs:
    """The user's latest impressions, as an ad attends to them.

    An impression's weight is exp(s) / (1 + sum of exp(s)), s the product of what the ad looks for with the impression's
    vector: nothing worth a look gives weights near 0, and so does a user without impressions.
    """

    def __init__(self, layout: Layout, history: History, tables: Tables) -> None:
        self._ids = np.array([layout.request.columns.index(name) for name in history.ids], dtype=np.intp)
        self._ages = np.array([layout.request.columns.index(name) for name in history.ages], dtype=np.intp)
        before = layout.ad.fields[: history.field]
        start = sum(field.width for field in before)
        field = layout.ad.fields[history.field]
        self._of_ad = slice(start, start + field.width)
        self._width = field.width
        self._salt = np.uint64(salt(field.name))
        self._unknown = np.int64(field.first)
        self._vocabulary = _Vocabulary(tables)
        self._tables = tables
        self._query = tables.query / np.float32(np.sqrt(field.width))
        self._known = [_Known(column) for column in self._ids.tolist()]
        self._ids_of = getter(self._ids.tolist())
        self._age_columns = self._ages.tolist()

    def present(self, requests: Int64s) -> NDArray[np.bool_]:
        """Tell which of the impressions there are, (n, T)."""
        present: NDArray[np.bool_] = requests.take(self._ids, 1) != 0
        return present

    def places(self, requests: Int64s) -> Int64s:
        """Return the table's rows of the impressions' ids, (n, T)."""
        mixed = mix(requests.take(self._ids, 1).view(np.uint64) + self._salt)
        return self._vocabulary.places(mixed, self._unknown)

    def ages(self, requests: Int64s) -> Int64s:
        """Return the classes of the impressions' ages, (n, T)."""
        return np.searchsorted(_AGES, requests.take(self._ages, 1), side="right")

    def vectors(self, requests: Int64s) -> Floats:
        """Return the impressions' vectors, float32 (n, T, history's width)."""
        vectors = self._tables.vectors.take(self.places(requests), 0)[..., : self._width]
        found: Floats = vectors + self._tables.ages.take(self.ages(requests), 0)
        return found

    def one(self, row: Int64s, values: Sequence[int]) -> Floats | None:
        """Return the vectors of the impressions that a row (R,) has, (1 to T, history's width); None without any."""
        ids = self._ids_of(values)
        if not any(ids):
            return None
        present = [slot for slot, value in enumerate(ids) if value]
        known = [self._known[slot] for slot in present]
        places = _remembered(known, values, lambda: self.places(row[np.newaxis])[0, present])
        ages = [bisect_right(_AGES, values[self._age_columns[slot]]) for slot in present]
        found: Floats = self._tables.vectors.take(places, 0)[:, : self._width]
        found += self._tables.ages.take(ages, 0)
        return found

    def queries(self, ads: Floats) -> Floats:
        """Return what ads look for, (n, history's width), of their inputs (n, ad's width)."""
        found: Floats = ads[:, self._of_ad] @ self._query
        return found

    @staticmethod
    def weights(products: Floats, present: NDArray[np.bool_] | None = None) -> Floats:
        """Return the weights of impressions (n, T), of the products of what ads look for with their vectors.

        Without `present`, (n, T), there are all of them.
        """
        odds: Floats = np.minimum(products, _PRODUCT_MAX)
        np.exp(odds, odds)
        if present is not None:
            odds *= present
        odds /= np.add.reduce(odds, 1, keepdims=True) + _ONE
        return odds


class Inputs:
    """Rows to the network's inputs x0."""

    def __init__(self, layout: Layout, tables: Tables) -> None:
        _check(layout, tables)
        self.layout = layout
        self.tables = tables
        self.request = SideInputs(layout.request, tables)
        self.ad = SideInputs(layout.ad, tables)
        self._counts = MatchCounts(layout.matches, Columns(layout.request.columns, layout.ad.columns))
        self.history = HistoryInputs(layout, layout.history, tables) if layout.history else None

    def matches(self, requests: Int64s, ads: Int64s) -> Floats:
        """Return log(1 + how often each match holds), float32 (n, M), of rows (n or 1, R) and (n, A)."""
        return np.log1p(self._counts.of_rows(requests, ads).astype(np.float32))

    def __call__(self, requests: Int64s, ads: Int64s) -> Floats:
        """Return the inputs, float32 (n, D), of request rows (n or 1, R) and ad rows (n, A)."""
        of_ads = self.ad(ads)
        of_requests = self.request(requests)
        parts = [np.broadcast_to(of_requests, (len(ads), of_requests.shape[1])), of_ads, self.matches(requests, ads)]
        if self.history is not None:
            vectors = self.history.vectors(requests)
            products = (vectors @ self.history.queries(of_ads)[:, :, np.newaxis])[:, :, 0]
            weights = self.history.weights(products, self.history.present(requests))
            parts.append((weights[:, np.newaxis, :] @ vectors)[:, 0, :])
        return np.concatenate(parts, axis=1)


def _check(layout: Layout, tables: Tables) -> None:
    """Refuse tables that lookups would run out of, or whose vectors are no numbers."""
    fields = [*layout.request.fields, *layout.ad.fields]
    length, width = tables.vectors.shape
    history = layout.history_width
    if len(tables.keys) != len(tables.places) or (tables.keys[1:] <= tables.keys[:-1]).any():
        raise ValueError("the vocabularies' keys are not in order")
    if any(field.first + field.rows > length or field.width > width for field in fields):
        raise ValueError("a field lies outside of the table of vectors")
    if len(tables.places) and not 0 < tables.places.min() <= tables.places.max() < length:
        raise ValueError("a value lies outside of the table of vectors")
    if tables.ages.shape != (AGE_CLASSES, history) or tables.query.shape != (history, history):
        raise ValueError("the history's arrays have another form")
    if not all(np.isfinite(array).all() for array in (tables.vectors, tables.ages, tables.query)):
        raise ValueError("not all that was learned is finite")


class _Known:
    """The table's rows of a column's values that have been looked up."""

    __slots__ = ("column", "places")

    def __init__(self, column: int) -> None:
        self.column = column
        self.places: dict[int, int] = {}


def _remembered(known: Sequence[_Known], values: Sequence[int], look: Callable[[], Int64s]) -> Sequence[int]:
    """Return the places of the columns' values; `look` is asked where one of them is new."""
    try:
        return [each.places[values[each.column]] for each in known]
    except KeyError:
        places: list[int] = look().tolist()
    for each, place in zip(known, places, strict=True):
        if len(each.places) >= _REMEMBERED:
            each.places.clear()
        each.places[values[each.column]] = place
    return places


def getter(columns: Sequence[int]) -> Callable[[Sequence[int]], Sequence[int]]:
    """Return what gives the values of these columns, of a row's values."""
    if len(columns) > 1:
        return itemgetter(*columns)
    return lambda values: tuple([values[column] for column in columns])


def value_keys(field: Field, values: Int64s) -> UInt64s:
    """Return the keys of a field's values, of their shape."""
    return mix(values.view(np.uint64) + np.uint64(salt(field.name)))
