"""Lays out the network's inputs for a feature spec: its fields, how many rows of the table each, how numbers scale."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec, Group
from models.serving.embedding import Field, History, Int64s, Layout, Number, Side, value_keys
from models.serving.statistics import UInt64s
from models.training.rows import Rows


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The shape of the network and how it is trained."""

    width_max: int = 16  # of a value's vector; fields of few values have 4 or 8
    count_min: int = 4  # a value of fewer rows is unknown: what is learned of those stands for what is new
    vocabulary_max: int = 20_000  # a request's field of more values is hashed; an ad's never
    hash_bits: int = 15
    cross_layers: int = 1
    cross_rank: int = 32  # with more layers a row of the split graph's state grows by its square: 16 at most then
    hidden: tuple[int, ...] = (128, 64)
    learning_rate: float = 0.02  # of Adagrad
    batch_rows: int = 256
    epochs_max: int = 4
    averaging: float = 0.98  # how much of the parameters' running average is kept at each step
    dropout: float = 0.1  # of the hidden layers' outputs
    unknown_share: float = 0.01  # of known values, taken for unknown while training
    validation_share: float = 0.1  # the last rows in time, by which training ends
    evaluations: int = 4  # an epoch
    patience: int = 3  # evaluations without a better one, then training ends
    seed: int = 7
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that no network can have."""
        counts = (self.width_max, self.count_min, self.cross_layers, self.cross_rank, *self.hidden, self.batch_rows)
        if min(*counts, self.epochs_max, self.evaluations, self.patience, self.threads, len(self.hidden)) < 1:
            raise ValueError("sizes and counts must be 1 or more")
        if not 0 < self.validation_share < 1 or not 0 <= self.dropout < 1 or not 0 <= self.unknown_share < 1:
            raise ValueError("validation_share must lie in (0, 1), dropout and unknown_share in [0, 1)")
        if not 0 <= self.averaging < 1:
            raise ValueError("averaging must lie in [0, 1)")
        if not 1 <= self.hash_bits <= 24 or self.learning_rate <= 0:
            raise ValueError("hash_bits must lie in 1 to 24, learning_rate be positive")


def lay_out(rows: Rows, spec: FeatureSpec, config: NetworkConfig) -> tuple[Layout, UInt64s, NDArray[np.int32], int]:
    """Return the layout, the vocabularies' keys in ascending order with the table's row of each, and its length.

    Fields are the columns, or sets of columns, of the spec's groups. Row 0 of the table is kept for absent values.
    """
    table = _Table(config)
    request_sets = _column_sets([group.request for group in _groups(spec)])
    matched = [(match.ad,) for match in spec.matches]
    ad_sets = _column_sets([*(group.ad for group in _groups(spec)), *matched])
    request = _side(spec.request_columns, request_sets, spec.request_numbers, rows.requests, table, hashed=True)
    ad = _side(spec.ad_columns, ad_sets, spec.ad_numbers, rows.ads, table, hashed=False)
    layout = Layout(request=request, ad=ad, matches=spec.matches, history=_history(spec, ad))
    keys, places = np.concatenate(table.keys), np.concatenate(table.places)
    order = np.argsort(keys)
    return layout, keys[order], places[order], table.length


class _Table:
    """The table's rows as they are given out."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config
        self.length = 1
        self.keys: list[UInt64s] = [np.zeros(0, dtype=np.uint64)]
        self.places: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]

    def field(self, columns: tuple[str, ...], values: Int64s, *, hashed: bool) -> Field:
        """Give rows to a field with these values."""
        found, counts = np.unique(values, return_counts=True)
        kept = found[(counts >= self._config.count_min) & ((found != 0) | (len(columns) == 1))]
        bits = self._config.hash_bits if hashed and len(kept) > self._config.vocabulary_max else 0
        size = 1 << bits if bits else 1 + len(kept)
        width = 4 if size <= 8 else 8 if size <= 64 else 16  # few values need few numbers to be told apart
        width = min(width, self._config.width_max)
        field = Field(columns=columns, first=self.length, rows=size, width=width, bits=bits)
        if not bits:
            self.keys.append(value_keys(field, kept))
            self.places.append(np.arange(self.length + 1, self.length + size, dtype=np.int32))
        self.length += size
        return field


def _side(
    columns: tuple[str, ...],
    sets: Sequence[tuple[str, ...]],
    numbers: Sequence[str],
    values: Int64s,
    table: _Table,
    *,
    hashed: bool,
) -> Side:
    places = {name: place for place, name in enumerate(columns)}
    fields = [table.field(names, values[:, [places[name] for name in names]], hashed=hashed) for names in sets]
    scaled = [_number(name, values[:, places[name]]) for name in numbers]
    return Side(columns=columns, fields=tuple(fields), numbers=tuple(scaled))


def _number(column: str, values: Int64s) -> Number:
    logs = np.log1p(values[values >= 0])
    deviation = float(logs.std()) if len(logs) else 0.0
    return Number(
        column=column, mean=float(logs.mean()) if len(logs) else 0.0, scale=1.0 / deviation if deviation > 1e-6 else 0.0
    )


def _history(spec: FeatureSpec, ad: Side) -> History | None:
    """Return how the user's impressions are read: by the vectors of the ads' column that they are matched with."""
    if not spec.sequence:
        return None
    ids, ages = zip(*spec.sequence, strict=True)
    named = [match.ad for match in spec.matches if set(match.request) & set(ids)]
    if not named:
        return None
    number = next(number for number, field in enumerate(ad.fields) if field.columns == (named[0],))
    return History(ids=ids, ages=ages, field=number)


def _groups(spec: FeatureSpec) -> list[Group]:
    return [*spec.groups, *spec.hierarchy, *spec.calibrate_by]


def _column_sets(named: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(columns for columns in named if columns))
