"""Fits a bid landscape to observed auctions by maximum penalised likelihood; dsp.pricing.landscape serves it.

An auction tells an interval that holds the price to win: a point where the price was told, all above our bid where it
was lost in silence, all up to it where it was won without a price. The likelihood of an interval is its probability.
Rows of the table have a Gaussian prior in which neighbouring prices go together: each is a sum of single steps, bumps
and slopes over log price, so that few auctions move a whole region and many carve out a single price.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from dsp.pricing.landscape import FLOOR_RATIOS, SENTINEL, Fields, Landscape, floor_multiples

#: Above every price: the open end of an interval.
NEVER_MICROS_CPM = 2**62
# How a landscape is fitted. One setting served every data set tried; results move little around it.
_POINTS = 80  # absolute prices of the grid, at most
_COUNT_MIN = 2  # a field's value seen less often counts as unknown
_STRENGTH = 15.0  # of the prior, in auctions
_BUMPS = 10  # smooth shapes over log price
_ROUNDS = 60
_LEARNING_RATE = 0.1
_MARGINAL_ROUNDS = 30
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Auctions:
    """Observed auctions: the price to win of each lies in (low, high], micros per thousand."""

    contexts: NDArray[np.int64]  # (n, C)
    floors: NDArray[np.int64]  # (n,); 0 for none
    low: NDArray[np.int64]  # (n,); -1 where it may be anything up to `high`
    high: NDArray[np.int64]  # (n,); NEVER_MICROS_CPM where it may be anything above `low`

    def __getitem__(self, chosen: NDArray[np.bool_] | slice) -> "Auctions":
        return Auctions(self.contexts[chosen], self.floors[chosen], self.low[chosen], self.high[chosen])

    def __len__(self) -> int:
        return len(self.floors)


def fit(auctions: Auctions, fields: Fields) -> Landscape:
    """Return the landscape of the auctions; there must be one at least. Deterministic."""
    points = grid_points(auctions)
    found, counts = np.unique(fields.keys(auctions.contexts, auctions.floors), return_counts=True)
    keys = np.append(found[counts >= _COUNT_MIN], SENTINEL)
    columns, rows = len(FLOOR_RATIOS) + len(points) + 1, len(keys) - 1 + len(fields)
    likelihood = _Likelihood(auctions, points)
    fitted = Landscape(
        fields=fields,
        keys=keys,
        table=np.zeros((rows, columns), dtype=np.float32),
        points_micros_cpm=points,
        unknown=np.arange(len(keys) - 1, rows),
    )
    used, bias = fitted.rows(auctions.contexts, auctions.floors), likelihood.marginal()
    table = _ascend(used, rows, likelihood, bias, _shapes(points))
    table += bias / np.float32(len(fields))  # as many rows are summed, so the sum has it once
    return replace(fitted, table=table)


def grid_points(auctions: Auctions) -> NDArray[np.int64]:
    """Return some prices, dense where observed prices are and with the highest of them, ascending.

    Each price weighs the square root of how often it was seen, so that mass points get a step of their own and
    the tail is not left out. Bids whose auction told nothing but won or lost count as prices.
    """
    told = np.where(auctions.high < NEVER_MICROS_CPM, auctions.high, auctions.low)
    prices, counts = np.unique(told[told > 0], return_counts=True)
    if not len(prices):
        return np.ones(1, dtype=np.int64)
    reached = np.sqrt(counts).cumsum()
    places = reached.searchsorted(reached[-1] * np.arange(1, _POINTS + 1) / _POINTS - 1e-9)
    return np.unique(prices[np.minimum(places, len(prices) - 1)])


class _Likelihood:
    """Log likelihood of the observed intervals as a function of scores, (n, G), and its slope."""

    def __init__(self, auctions: Auctions, points: NDArray[np.int64]) -> None:
        near, floors = len(FLOOR_RATIOS), auctions.floors
        multiples = floor_multiples(floors)
        steps = np.arange(near + len(points) + 1)
        tops = np.where(floors > 0, multiples[:, -1], -1.0)
        first_above = near + points.searchsorted(tops, side="right")
        has_floor = floors > 0
        self.possible = (steps >= first_above[:, np.newaxis]) | ((steps < near) & has_floor[:, np.newaxis])
        at_least = np.maximum(auctions.low, np.where(has_floor, floors - 1, -1))  # no price to win is below the floor
        at_most = np.maximum(auctions.high, floors)

        def step(prices: NDArray[np.int64], side: str) -> NDArray[np.intp]:
            """Return the first step not below (left) or above (right) each price."""
            column = prices[:, np.newaxis]
            passed = (multiples < column if side == "left" else multiples <= column).sum(axis=1)
            clipped = np.maximum(prices, tops)
            beyond = near + points.searchsorted(clipped, side="left" if side == "left" else "right")
            return np.where(has_floor & (passed < near), passed, beyond)

        first = step(at_least, "right")[:, np.newaxis]
        last = np.maximum(step(at_most, "left")[:, np.newaxis], first)
        self.inside = self.possible & (steps >= first) & (steps <= last)
        # An interval between two steps still holds the price that the upper step stands for.
        nothing = ~self.inside.any(axis=1)
        self.inside[nothing] = self.possible[nothing]

    def slope(self, scores: Floats) -> Floats:
        """Return the slope of the mean log likelihood times n, (n, G). Overwrites `scores`."""
        scores[~self.possible] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)
        predicted = np.exp(scores)
        told = predicted * self.inside
        told /= np.maximum(told.sum(axis=1, keepdims=True), 1e-30)
        predicted /= predicted.sum(axis=1, keepdims=True)
        told -= predicted
        return told

    def marginal(self) -> Floats:
        """Return scores (G,) that fit all auctions without a context: self-consistent counts (Turnbull, 1976)."""
        opportunities = self.possible.sum(axis=0) + 1.0
        shares = np.ones(self.possible.shape[1], dtype=np.float32)
        for _ in range(_MARGINAL_ROUNDS):
            told = self.inside * shares
            told /= np.maximum(told.sum(axis=1, keepdims=True), 1e-30)
            shares = ((told.sum(axis=0) + 0.5) / opportunities).astype(np.float32)
        return np.log(shares)


def _shapes(points: NDArray[np.int64]) -> Floats:
    """Return what a row of the table is made of, (M, G): each step alone, then bumps and slopes over log price."""
    near, count = len(FLOOR_RATIOS), len(points) + 1
    logs = np.log(np.append(points, 2 * points[-1]) + points[len(points) // 2] / 20.0)
    centres, width = np.linspace(logs[0], logs[-1], _BUMPS, retstep=True)
    away = (logs - centres[:, np.newaxis]) / max(float(width), 1e-9)
    smooth = np.zeros((2 * _BUMPS + 1, near + count))
    smooth[:_BUMPS, near:] = np.exp(-0.5 * away**2)
    smooth[_BUMPS:-1, near:] = 0.5 / (1.0 + np.exp(-np.clip(2.0 * away, -50.0, 50.0)))
    smooth[-1, :near] = 1.0
    return np.concatenate((np.eye(near + count), smooth)).astype(np.float32)


def _ascend(rows: NDArray[np.intp], count: int, likelihood: _Likelihood, bias: Floats, shapes: Floats) -> Floats:
    """Return the table (count, G) of the highest posterior, by Adam with all auctions in each round."""
    auctions, fields = rows.shape
    ones = np.ones(rows.size, dtype=np.float32)
    uses = sparse.csr_matrix((ones, rows.ravel(), np.arange(auctions + 1) * fields), (auctions, count))
    used_by = uses.T.tocsr()
    weights = np.zeros((count, len(shapes)), dtype=np.float32)
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for number in range(1, _ROUNDS + 1):
        slope = (used_by @ likelihood.slope(uses @ (weights @ shapes) + bias)) @ shapes.T
        slope -= _STRENGTH * weights
        slope /= auctions
        mean += 0.1 * (slope - mean)
        square += 0.01 * (slope * slope - square)
        cooled = _LEARNING_RATE * 0.5 * (1.0 + np.cos(np.pi * number / (_ROUNDS + 1)))
        rise = cooled / (1.0 - 0.9**number)
        weights += rise * mean / (np.sqrt(square / (1.0 - 0.99**number)) + 1e-7)
    table: Floats = (weights @ shapes).astype(np.float32)
    return table
