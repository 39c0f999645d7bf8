"""Hashed logistic regression at serving: a weight for every value, pair of values and magnitude, in one table.

A coordinate's place is its hash. What a coordinate says of the request alone is summed once a request, what it says of
the ad alone once an ad; the place of a pair is the exclusive or of two halves, each made once. Learning the weights is
models.training.ftrl.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec, Group, Match
from models.serving.keys import Finder, MatchCounts, PreparedKeys, Shared
from models.serving.statistics import Columns, Slots, UInt64s, mix, salt

Int64s = NDArray[np.int64]
Floats = NDArray[np.float32]
_KEY_BITS = 64
_BITS_MAX = 24
#: Magnitudes of int64 numbers: their sign, and how often they double.
_LEVEL_MAX = 64
_ABSENT = np.array(0, dtype=np.int64)  # without dimensions: a scalar operand would be converted at each call
#: Rows of different impressions are scored so many at a time, which bounds memory.
_CHUNK_ROWS = 8_192


class Coordinates:
    """The places, in a table of 2**bits weights, of what rows say: a spec's groups, numbers and matches.

    Slots run first, rows second: groups of the request alone, the other groups, the numbers' magnitudes, the matches'
    counts, the intercept. Absent members of sets do not count, nor do matches of nothing.
    """

    def __init__(self, spec: FeatureSpec, bits: int) -> None:
        if not 1 <= bits <= _BITS_MAX:
            raise ValueError(f"a table of {bits} bits; at most {_BITS_MAX}")
        self.spec = spec
        self.bits = bits
        columns = Columns(spec.request_columns, spec.ad_columns)
        groups = sorted(spec.groups, key=lambda group: bool(group.ad))
        self._slots = Slots(groups, columns)
        self._in_set = np.array([group.is_set for group in groups for _ in range(_width(group))], dtype=np.bool_)
        self._request_numbers = _Numbers(spec.request_numbers, columns.request)
        self._ad_numbers = _Numbers(spec.ad_numbers, columns.ad)
        self._counts = MatchCounts(spec.matches, columns)
        #: Of each slot but the intercept's, the group, number or match that it belongs to.
        self.names = (
            *(group.name for group in groups for _ in range(_width(group))),
            *(*spec.request_numbers, *spec.ad_numbers, *(match.name for match in spec.matches)),
        )

    def __call__(self, requests: Int64s, ads: Int64s) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the place of each slot and row, and whether it counts, both (slots, n), of rows (n, R) and (n, A)."""
        counts = self._counts.of_rows(requests, ads).T
        told = np.concatenate(self._slots.present(requests, ads)) | ~self._in_set[:, np.newaxis]
        numbers = np.concatenate([self._request_numbers.keys(requests), self._ad_numbers.keys(ads)])
        keys = [
            *self._slots.keys(requests, ads),
            numbers,
            *(_count_keys(match, each)[np.newaxis] for match, each in zip(self.spec.matches, counts, strict=True)),
            np.full((1, len(ads)), salt("intercept"), dtype=np.uint64),
        ]
        filled = [
            told,
            np.ones(numbers.shape, dtype=np.bool_),
            counts > 0,
            np.ones((1, len(ads)), dtype=np.bool_),
        ]
        return self.places(np.concatenate(keys)), np.concatenate(filled)

    def places(self, keys: UInt64s) -> NDArray[np.intp]:
        """Return the places of keys, or the halves of places of halves of keys."""
        return (keys >> np.uint64(_KEY_BITS - self.bits)).view(np.int64)


class LinearModel:
    """Log-odds that are sums of weights, float32 (2**bits,), and of `base`."""

    def __init__(self, coordinates: Coordinates, weights: Floats, base: float) -> None:
        if weights.shape != (1 << coordinates.bits,):
            raise ValueError(f"{weights.shape} weights for a table of {coordinates.bits} bits")
        self.coordinates = coordinates
        self.weights = weights
        self.base = base

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return log-odds, float64 (n,), of request rows (n or 1, R) and ad rows (n, A)."""
        logits = np.full(len(ads), self.base)
        for start in range(0, len(ads), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            asked = ads[part]
            rows = requests[part] if len(requests) > 1 else np.broadcast_to(requests, (len(asked), requests.shape[1]))
            places, filled = self.coordinates(rows, asked)
            logits[part] += (self.weights[places] * filled).sum(axis=0, dtype=np.float64)
        return logits

    def prepare(self, ads: Int64s, shared: Shared, offsets: NDArray[np.float64] | None = None) -> "PreparedLinear":
        """Return what gives the log-odds of ads of this table, (C, A), plus their `offsets`, (C,); `shared` with other
        models of the table.
        """
        return PreparedLinear(self, ads, offsets, PreparedCoordinates.of(self.coordinates, ads, shared))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return all that `restore` needs beside the spec: the weights that are not 0, and where they are."""
        places = np.flatnonzero(self.weights).astype("<u4")
        return {
            "bits": np.array(self.coordinates.bits),
            "base": np.array(self.base),
            "places": places,
            "weights": self.weights[places].astype("<f4"),
        }


def restore(spec: FeatureSpec, arrays: Mapping[str, NDArray[np.generic]]) -> LinearModel:
    """Return the model whose `arrays` these are.

    Raises:
        KeyError: one is missing.
        ValueError: they do not fit each other, or are not finite.
    """
    bits, base, places, values = (arrays[name] for name in ("bits", "base", "places", "weights"))
    if bits.shape or base.shape or places.ndim != 1 or places.shape != values.shape:
        raise ValueError("weights of another form")
    if places.dtype != np.dtype("<u4") or values.dtype != np.dtype("<f4"):
        raise ValueError(f"weights of {values.dtype} at {places.dtype}")
    coordinates = Coordinates(spec, int(bits.item()))
    told = float(base.item())
    if len(places) and int(places.max()) >= 1 << coordinates.bits:
        raise ValueError("a weight beyond the table")
    if not (np.isfinite(told) and np.isfinite(values.astype(np.float32)).all()):
        raise ValueError("weights that are not finite")
    weights = np.zeros(1 << coordinates.bits, dtype=np.float32)
    weights[places] = values
    return LinearModel(coordinates, weights, told)


class Found(NamedTuple):
    """Places of one request's coordinates: of the request alone, (S,), and of K candidates' pairs and matches, (K, P).

    Those that do not count lie beyond the table. The next request overwrites the latter.
    """

    of_request: Int64s
    of_pairs: Int64s


class PreparedCoordinates(Finder[Found]):
    """Finds the places of one request's coordinates and of ads of a fixed table, once for all models that share them.

    Memory for K rows is kept and used again. It takes 8 bytes an ad and slot of pairs.
    """

    def __init__(self, coordinates: Coordinates, ads: Int64s, shared: Shared) -> None:
        spec, bits = coordinates.spec, coordinates.bits
        columns = Columns(spec.request_columns, spec.ad_columns)
        of_request = [group for group in spec.groups if not group.ad]
        of_both = [group for group in spec.groups if group.ad and group.request]
        self._keys = PreparedKeys.of(spec.groups, spec.matches, columns, ads, shared)
        self._shift = np.array(_KEY_BITS - bits, dtype=np.uint64)
        # A half of something absent has a bit above all places, on each side another, so that two do not cancel out.
        self._beyond = np.array(1 << bits, dtype=np.int64)
        pairs = [(name, ad, group.is_set) for group in of_both for name in group.request for ad in group.ad]
        asked = [(name, is_set) for name, _, is_set in pairs]
        asked += [(name, group.is_set) for group in of_request for name in group.request]
        self._pairs = len(pairs)
        self._asked = np.array([columns.request.index(name) for name, _ in asked], dtype=np.intp)
        self._sets = np.array([is_set for _, is_set in asked], dtype=np.int64) * (2 * self._beyond)
        self._ad_halves = coordinates.places(self._keys.ad_keys)
        for slot, (_, ad, is_set) in enumerate(pairs):
            if is_set:
                self._ad_halves[ads[:, columns.ad.index(ad)] == 0, slot] |= self._beyond
        numbers = _Numbers(spec.request_numbers, columns.request)
        self._numbers = numbers.columns
        self._levels = coordinates.places(numbers.all_keys()).ravel()
        self._level_starts = np.arange(len(numbers.columns)) * (2 * _LEVEL_MAX + 1) + _LEVEL_MAX
        counts = [coordinates.places(_count_keys(match, np.arange(len(match.request) + 1))) for match in spec.matches]
        for places in counts:
            places[0] = self._beyond  # no match is nothing to be told
        self._counts = np.concatenate([np.empty(0, dtype=np.int64), *counts])
        self._count_starts = np.cumsum([0, *map(len, counts)], dtype=np.intp)[:-1]
        self._bound: dict[int, tuple[Int64s, Int64s, Int64s]] = {}
        super().__init__(self._places)

    @classmethod
    def of(cls, coordinates: Coordinates, ads: Int64s, shared: Shared) -> "PreparedCoordinates":
        """Return the coordinates for ads of this table, (C, A)."""
        return shared.once((cls, coordinates.spec, coordinates.bits), lambda: cls(coordinates, ads, shared))

    def _places(self, request: Int64s, chosen: Int64s) -> Found:
        keys, width = self._keys.find(request, chosen), self._pairs
        places = (keys.halves >> self._shift).view(np.int64)
        places |= (request.take(self._asked) == _ABSENT) * self._sets
        levels = _levels(request.take(self._numbers))
        levels += self._level_starts
        whole, pairs, matches = self._bound.get(len(chosen)) or self._bind(len(chosen))
        np.bitwise_xor(self._ad_halves.take(chosen, 0), places[:width], pairs)
        counts = keys.counts
        matches[...] = self._beyond if counts is None else self._counts.take(counts + self._count_starts)
        return Found(np.concatenate((places[width:], self._levels.take(levels))), whole)

    def _bind(self, rows: int) -> tuple[Int64s, Int64s, Int64s]:
        whole = np.empty((rows, self._pairs + len(self._count_starts)), dtype=np.int64)
        self._bound[rows] = whole, whole[:, : self._pairs], whole[:, self._pairs :]
        return self._bound[rows]


class PreparedLinear:
    """The log-odds of ads of a fixed table, one request at a time. It gives what the model gives, in float32."""

    def __init__(
        self, model: LinearModel, ads: Int64s, offsets: NDArray[np.float64] | None, prepared: PreparedCoordinates
    ) -> None:
        self._coordinates = prepared
        # The table's last weight is 0: it is read for every place beyond.
        self._table = np.append(model.weights, np.float32(0))
        alone = LinearModel(_of_ads_alone(model.coordinates), model.weights, model.base)
        self._ads = alone.logits(np.zeros((1, len(model.coordinates.spec.request_columns)), dtype=np.int64), ads)
        if offsets is not None:
            self._ads += offsets

    def logits(self, request: Int64s, chosen: Int64s) -> NDArray[np.float64]:
        """Return log-odds, float64 (K,), of a request row (R,) and K rows of the table."""
        found = self._coordinates.find(request, chosen)
        logits = self._ads.take(chosen)
        logits += np.add.reduce(self._table.take(found.of_pairs, None, None, "clip"), 1)
        logits += self._table.take(found.of_request, None, None, "clip").sum()
        return logits


class _Numbers:
    """Numbers of one side: each is told by its sign and how often it doubles."""

    def __init__(self, names: Sequence[str], columns: Sequence[str]) -> None:
        self.columns = np.array([columns.index(name) for name in names], dtype=np.intp)
        self._salts = np.array([[salt(f"magnitude of {name}")] for name in names], dtype=np.uint64).reshape(-1, 1)

    def keys(self, rows: Int64s) -> UInt64s:
        """Return the keys of rows' numbers, (numbers, n)."""
        return mix(_levels(rows[:, self.columns].T).view(np.uint64) + self._salts)

    def all_keys(self) -> UInt64s:
        """Return the keys of all magnitudes there are, (numbers, 2 * _LEVEL_MAX + 1), the least first."""
        levels = np.arange(-_LEVEL_MAX, _LEVEL_MAX + 1, dtype=np.int64)
        return mix(levels.view(np.uint64) + self._salts)


def _count_keys(match: Match, counts: Int64s) -> UInt64s:
    """Return the keys of how often a match holds, (n,)."""
    return mix(counts.view(np.uint64) + np.uint64(salt(f"matches of {match.name}")))


def _levels(numbers: Int64s) -> Int64s:
    """Return the sign of numbers times how often 1 is doubled to exceed them."""
    levels: Int64s = np.sign(numbers) * np.frexp(numbers)[1]
    return levels


def _width(group: Group) -> int:
    return max(1, len(group.request)) * max(1, len(group.ad))


def _of_ads_alone(coordinates: Coordinates) -> Coordinates:
    """Return the coordinates that do not look at the request, with the intercept."""
    spec = coordinates.spec
    alone = FeatureSpec(
        request_columns=spec.request_columns,
        ad_columns=spec.ad_columns,
        groups=tuple(group for group in spec.groups if not group.request),
        hierarchy=(),
        ad_numbers=spec.ad_numbers,
    )
    return Coordinates(alone, coordinates.bits)
