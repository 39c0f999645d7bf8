"""The bid landscape F(b|x): the chance that a bid wins a first-price auction, from the impression's context.

A landscape is arrays; fitting them is models.training.landscape. The price to win is one of G steps of a grid, and its
distribution a softmax whose scores are sums of table rows, one row a field of the context (a column, or a pair).
Market prices cluster at floors and a little above, so the first steps are multiples of the impression's floor.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Prices just above a floor are floor multiples, rounded down to the exchanges' usual step: a cent per thousand.
FLOOR_RATIOS = np.array([1.0, 1.025, 1.05, 1.075, 1.1, 1.125, 1.15])
TICK_MICROS_CPM = 10_000
#: Columns that every context is given after its own: nothing, and the floor's magnitude in quarter octaves.
NOTHING, FLOOR_LEVEL = -2, -1
_STEPS_PER_OCTAVE = 4.0

# Constants are arrays without dimensions: with one context, half the time of a scalar operand is its conversion.
_ODD_1 = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
_ODD_2 = np.array(0xC2B2AE3D27D4EB4F, dtype=np.uint64)
_HALF = np.array(32, dtype=np.uint64)
#: The key after all others: a binary search never runs off the end.
SENTINEL = np.uint64(2**64 - 1)


class WinCurve(NamedTuple):
    """F of one impression: prices in micros per thousand, ascending, and the chance that each wins; float64 (g,).

    Below the first price nothing wins. Above the last, the highest ever seen, F is taken to stay what it is there.
    """

    prices_micros_cpm: NDArray[np.float64]
    win_rate: NDArray[np.float64]

    def at(self, bid_micros_cpm: float) -> float:
        """Return the chance that a bid wins."""
        place = int(self.prices_micros_cpm.searchsorted(bid_micros_cpm, side="right"))
        return float(self.win_rate[place - 1]) if place else 0.0


class Fields(NamedTuple):
    """Which columns of a context each of F fields combines: the first of each, then the second of each, (2F,)."""

    columns: NDArray[np.intp]
    salts: NDArray[np.uint64]

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]]) -> "Fields":
        """Return the fields of pairs of columns; the second is NOTHING for a field of one column."""
        columns = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        salts = np.zeros(2 * len(pairs), dtype=np.uint64)
        salts[: len(pairs)] = np.arange(1, len(pairs) + 1)
        return cls(columns.T.ravel(), salts)

    def __len__(self) -> int:
        return len(self.columns) // 2

    def keys(self, contexts: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the keys of all fields, (..., F), of contexts with the two columns that every context is given."""
        mixed = contexts.take(self.columns, axis=-1).view(np.uint64)
        mixed += self.salts
        mixed *= _ODD_1
        mixed ^= mixed >> _HALF
        mixed *= _ODD_2
        mixed ^= mixed >> _HALF
        count = len(self.columns) // 2
        return mixed[..., :count] ^ mixed[..., count:]


class Landscape(NamedTuple):
    """A fitted landscape of D known field values and G scores.

    Scores are those of the floor's multiples, of `points`, and of a price above them all.
    """

    fields: Fields
    keys: NDArray[np.uint64]  # (D + 1,), ascending, SENTINEL the last
    table: NDArray[np.float32]  # (D + F, G): a row a key, then one a field for values not known
    bias: NDArray[np.float32]  # (G,)
    points_micros_cpm: NDArray[np.int64]  # (P,), ascending; G = len(FLOOR_RATIOS) + P + 1
    unknown: NDArray[np.intp]  # (F,), the rows for values not known: D to D + F

    def rows(self, contexts: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return which rows of the table are summed, (..., F), of contexts as `with_floors` makes them."""
        keys = self.fields.keys(contexts)
        places = self.keys.searchsorted(keys)
        return np.where(self.keys.take(places) == keys, places, self.unknown)

    def curve(self, context: NDArray[np.int64], floor_micros_cpm: int) -> WinCurve:
        """Return F of one impression, of its context (C,) and its floor, 0 for none."""
        extra, multiples = _near(floor_micros_cpm)
        scores = np.add.reduce(self.table.take(self.rows(np.concatenate((context, extra))), axis=0))
        scores += self.bias
        prices, near = self.points_micros_cpm, len(FLOOR_RATIOS)
        if floor_micros_cpm > 0:
            above = int(prices.searchsorted(multiples[-1], side="right"))
            prices = np.concatenate((multiples, prices[above:]))
            scores = np.concatenate((scores[:near], scores[near + above :]))
        else:
            scores = scores[near:]
        scores -= np.maximum.reduce(scores)
        reached = np.add.accumulate(np.exp(scores, out=scores), dtype=np.float64)
        return WinCurve(prices.astype(np.float64), reached[:-1] / reached[-1])


def with_floors(contexts: NDArray[np.int64], floors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return contexts (n, C + 2): contexts (n, C) and the columns NOTHING and FLOOR_LEVEL of their floors (n,)."""
    extra = np.zeros((len(floors), 2), dtype=np.int64)
    extra[:, FLOOR_LEVEL] = np.log2(np.maximum(floors, 1)) * _STEPS_PER_OCTAVE
    return np.concatenate((contexts, extra), axis=1)


def floor_multiples(floors_micros_cpm: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the prices at and just above floors (n,), ascending: floors x FLOOR_RATIOS, (n, ratios)."""
    floors = floors_micros_cpm[:, np.newaxis]
    ticks = (floors * FLOOR_RATIOS / TICK_MICROS_CPM + 1e-6).astype(np.int64)
    multiples: NDArray[np.int64] = np.maximum(ticks * TICK_MICROS_CPM, floors)
    return multiples


@lru_cache(maxsize=4_096)
def _near(floor_micros_cpm: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a floor's two context columns and its multiples: floors are few, and making them costs several calls."""
    floors = np.array([floor_micros_cpm], dtype=np.int64)
    return with_floors(np.zeros((1, 0), dtype=np.int64), floors)[0], floor_multiples(floors)[0]
