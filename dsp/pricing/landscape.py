"""The bid landscape F(b|x): the chance that a bid wins a first-price auction, from the impression's context.

A landscape is arrays; fitting them is models.training.landscape. The price to win is one of G steps of a grid, and its
distribution a softmax whose scores are sums of table rows, one row a field of the context (a column, or a pair).
Market prices cluster at floors and a little above, so the first steps are multiples of the impression's floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Prices just above a floor are floor multiples, rounded down to the exchanges' usual step: a cent per thousand.
FLOOR_RATIOS = np.array([1.0, 1.025, 1.05, 1.075, 1.1, 1.125, 1.15])
TICK_MICROS_CPM = 10_000
#: What a field may combine beside a context's columns: nothing, and the floor's magnitude in quarter octaves.
NOTHING, FLOOR_LEVEL = -2, -1
_STEPS_PER_OCTAVE = 4.0
_GRIDS_MAX = 4_096
#: No sum of scores may be larger, so that their exponentials are numbers without looking for the largest first.
SCORE_MAX = 700.0
#: The key after all others: a binary search never runs off the end.
SENTINEL = np.uint64(2**64 - 1)


class WinCurve(NamedTuple):
    """F of one impression at g prices. Below the first nothing wins. Above the last, the highest ever seen, F is taken
    to stay what it is there.

    The expected surplus of a bid at one of them is a line in the worth w, w F(b) - b F(b).
    """

    prices_micros_cpm: NDArray[np.float64]  # (g,), ascending
    lines: NDArray[np.float64]  # (2, g): F, the chance that each price wins, and -b F

    @classmethod
    def of(cls, prices_micros_cpm: NDArray[np.float64], win_rate: NDArray[np.float64]) -> "WinCurve":
        """Return the curve of prices, ascending, and the chances that they win, both (g,)."""
        return cls(prices_micros_cpm, _lines(prices_micros_cpm) * win_rate)

    def at(self, bid_micros_cpm: float) -> float:
        """Return the chance that a bid wins."""
        place = int(self.prices_micros_cpm.searchsorted(bid_micros_cpm, side="right"))
        return float(self.lines[0, place - 1]) if place else 0.0


class Fields(NamedTuple):
    """F fields of contexts, each a column or a pair, and how their values are made into keys.

    A key is linear in the values, modulo 2^64, with odd factors and a summand of the field's own: one field's
    values never share a key, and those of pairs and of different fields hardly ever.
    """

    columns: NDArray[np.intp]  # (U,), those of the context that any field has
    factors: NDArray[np.uint64]  # (U, F), 0 where a field does not have the column
    floor_factors: NDArray[np.uint64]  # (F,), likewise of the floor's level
    summands: NDArray[np.uint64]  # (F,)

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]]) -> "Fields":
        """Return the fields of pairs of columns; the second is NOTHING for a field of one column."""
        columns = sorted({column for pair in pairs for column in pair if column >= 0})
        factors = np.zeros((len(columns), len(pairs)), dtype=np.uint64)
        floor_factors, summands = np.zeros((2, len(pairs)), dtype=np.uint64)
        for number, pair in enumerate(pairs):
            summands[number] = _constant(number, "summand")
            for place, column in enumerate(pair):
                factor = np.uint64(_constant(number, str(place)) | 1)
                if column == FLOOR_LEVEL:
                    floor_factors[number] = factor
                elif column != NOTHING:
                    factors[columns.index(column), number] = factor
        return cls(np.array(columns, dtype=np.intp), factors, floor_factors, summands)

    def __len__(self) -> int:
        return len(self.summands)

    def keys(self, contexts: NDArray[np.int64], floors_micros_cpm: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the keys of all fields, (n, F), of contexts (n, C) and their floors (n,), 0 for none."""
        return self.context_keys(contexts) + self.floor_keys(floors_micros_cpm)

    def context_keys(self, contexts: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return what contexts (..., C) bring to the keys, (..., F)."""
        found: NDArray[np.uint64] = contexts.take(self.columns, -1).view(np.uint64).dot(self.factors)
        return found

    def floor_keys(self, floors_micros_cpm: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return what floors (n,) and the fields themselves bring to the keys, (n, F)."""
        levels = (np.log2(np.maximum(floors_micros_cpm, 1)) * _STEPS_PER_OCTAVE).astype(np.uint64)
        return levels[:, np.newaxis] * self.floor_factors + self.summands


def _constant(number: int, what: str) -> int:
    """Return 64 bits that are the same for ever: published landscapes hold keys made with them."""
    return int.from_bytes(blake2b(f"{number} {what}".encode(), digest_size=8).digest(), "little")


class Grid(NamedTuple):
    """What a floor makes of a landscape: g prices to bid, and which of the scores are theirs."""

    keys: NDArray[np.uint64]  # (F,), what the floor brings to them
    prices_micros_cpm: NDArray[np.float64]  # (g,), ascending
    lines: NDArray[np.float64]  # (2, g), of prices that always win
    steps: NDArray[np.intp]  # (g + 1,), places among the G scores, the price above all the last


@dataclass(frozen=True, slots=True)
class Landscape:
    """A fitted landscape of D known field values and G scores.

    Scores are those of the floor's multiples, of `points`, and of a price above them all.
    """

    fields: Fields
    keys: NDArray[np.uint64]  # (D + 1,), ascending, SENTINEL the last
    table: NDArray[np.float32]  # (D + F, G): a row a key, then one a field for values not known
    points_micros_cpm: NDArray[np.int64]  # (P,), ascending; G = len(FLOOR_RATIOS) + P + 1
    unknown: NDArray[np.intp]  # (F,), the rows for values not known: D to D + F
    _ones: NDArray[np.float32] = field(init=False, repr=False)  # (F,): a product with them is a sum, and quicker
    _grids: dict[int, Grid] = field(default_factory=dict, init=False, repr=False)  # by floor: there are few

    def __post_init__(self) -> None:
        """Raise ValueError where scores may be larger than SCORE_MAX, or are none."""
        largest = len(self.fields) * float(np.abs(self.table).max(initial=0.0))
        if not largest <= SCORE_MAX:
            raise ValueError(f"scores of up to {largest}")
        object.__setattr__(self, "_ones", np.ones(len(self.fields), dtype=np.float32))

    def rows(self, contexts: NDArray[np.int64], floors_micros_cpm: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return which rows of the table are summed, (n, F), of contexts (n, C) and their floors (n,), 0 for none."""
        return self._rows(self.fields.keys(contexts, floors_micros_cpm))

    def curve(self, context: NDArray[np.int64], floor_micros_cpm: int) -> WinCurve:
        """Return F of one impression, of its context (C,) and its floor, 0 for none."""
        grid = self._grids.get(floor_micros_cpm) or self._grid(floor_micros_cpm)
        keys = self.fields.context_keys(context)
        keys += grid.keys
        scores = self._ones.dot(self.table.take(self._rows(keys), 0)).take(grid.steps)
        reached = np.add.accumulate(np.exp(scores, dtype=np.float64))
        lines = grid.lines * reached[:-1]
        lines /= reached[-1, ...]
        return WinCurve(grid.prices_micros_cpm, lines)

    def _rows(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        places = self.keys.searchsorted(keys)
        np.copyto(places, self.unknown, where=self.keys.take(places) != keys)
        return places

    def _grid(self, floor_micros_cpm: int) -> Grid:
        floors, prices, near = np.array([floor_micros_cpm], dtype=np.int64), self.points_micros_cpm, len(FLOOR_RATIOS)
        keys = self.fields.floor_keys(floors)[0]
        steps = np.arange(self.table.shape[1])
        if floor_micros_cpm > 0:
            multiples = floor_multiples(floors)[0]
            above = int(prices.searchsorted(multiples[-1], side="right"))
            prices, steps = np.concatenate((multiples, prices[above:])), np.delete(steps, np.s_[near : near + above])
        else:
            steps = steps[near:]
        if len(self._grids) >= _GRIDS_MAX:
            self._grids.clear()
        bids = prices.astype(np.float64)
        grid = self._grids[floor_micros_cpm] = Grid(keys, bids, _lines(bids), steps)
        return grid


def _lines(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack((np.ones(len(prices)), -prices))


def floor_multiples(floors_micros_cpm: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the prices at and just above floors (n,), ascending: floors x FLOOR_RATIOS, (n, ratios)."""
    floors = floors_micros_cpm[:, np.newaxis]
    ticks = (floors * FLOOR_RATIOS / TICK_MICROS_CPM + 1e-6).astype(np.int64)
    multiples: NDArray[np.int64] = np.maximum(ticks * TICK_MICROS_CPM, floors)
    return multiples
