"""The bid landscape F(b|x): the chance that a bid wins a first-price auction, from the impression's context.

A landscape is arrays; fitting them is models.training.landscape. The price to win is one of G steps of a grid, and its
distribution a softmax whose scores are sums of table rows, one row a field of the context (a column, or a pair).
Market prices cluster at floors and a little above, so the first steps are multiples of the impression's floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Prices just above a floor are floor multiples, rounded down to the exchanges' usual step: a cent per thousand.
FLOOR_RATIOS = np.array([1.0, 1.025, 1.05, 1.075, 1.1, 1.125, 1.15])
TICK_MICROS_CPM = 10_000
#: Columns that every context is given after its own: nothing, and the floor's magnitude in quarter octaves.
NOTHING, FLOOR_LEVEL = -2, -1
_STEPS_PER_OCTAVE = 4.0
_GRIDS_MAX = 4_096

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


class Grid(NamedTuple):
    """What a floor makes of a landscape: g prices to bid, and which of the scores are theirs."""

    columns: NDArray[np.int64]  # (2,), the columns that every context is given
    prices_micros_cpm: NDArray[np.float64]  # (g,), ascending
    steps: NDArray[np.intp]  # (g + 1,), places among the G scores, the price above all the last
    bias: NDArray[np.float32]  # (g + 1,)


@dataclass(frozen=True, slots=True)
class Landscape:
    """A fitted landscape of D known field values and G scores.

    Scores are those of the floor's multiples, of `points`, and of a price above them all.
    """

    fields: Fields
    keys: NDArray[np.uint64]  # (D + 1,), ascending, SENTINEL the last
    table: NDArray[np.float32]  # (D + F, G): a row a key, then one a field for values not known
    bias: NDArray[np.float32]  # (G,)
    points_micros_cpm: NDArray[np.int64]  # (P,), ascending; G = len(FLOOR_RATIOS) + P + 1
    unknown: NDArray[np.intp]  # (F,), the rows for values not known: D to D + F
    _grids: dict[int, Grid] = field(default_factory=dict, init=False, repr=False)  # by floor: there are few

    def rows(self, contexts: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return which rows of the table are summed, (..., F), of contexts as `with_floors` makes them."""
        keys = self.fields.keys(contexts)
        places = self.keys.searchsorted(keys)
        return np.where(self.keys.take(places) == keys, places, self.unknown)

    def curve(self, context: NDArray[np.int64], floor_micros_cpm: int) -> WinCurve:
        """Return F of one impression, of its context (C,) and its floor, 0 for none."""
        grid = self._grids.get(floor_micros_cpm) or self._grid(floor_micros_cpm)
        rows = self.rows(np.concatenate((context, grid.columns)))
        scores = np.add.reduce(self.table.take(rows, 0)).take(grid.steps)
        scores += grid.bias
        scores -= np.maximum.reduce(scores)
        reached = np.add.accumulate(np.exp(scores, scores), 0, np.float64)
        return WinCurve(grid.prices_micros_cpm, reached[:-1] / reached[-1])

    def _grid(self, floor_micros_cpm: int) -> Grid:
        floors, prices, near = np.array([floor_micros_cpm], dtype=np.int64), self.points_micros_cpm, len(FLOOR_RATIOS)
        columns = with_floors(np.zeros((1, 0), dtype=np.int64), floors)[0]
        steps = np.arange(len(self.bias))
        if floor_micros_cpm > 0:
            multiples = floor_multiples(floors)[0]
            above = int(prices.searchsorted(multiples[-1], side="right"))
            prices, steps = np.concatenate((multiples, prices[above:])), np.delete(steps, np.s_[near : near + above])
        else:
            steps = steps[near:]
        if len(self._grids) >= _GRIDS_MAX:
            self._grids.clear()
        grid = self._grids[floor_micros_cpm] = Grid(columns, prices.astype(np.float64), steps, self.bias.take(steps))
        return grid


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
