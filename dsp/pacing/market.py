"""What a bidder has learned of its market from its own auctions: what comes how often, at which price and value.

A price is seen where the bid won; a loss tells only that the price was higher. Values are seen in every auction.
"""

from collections import deque
from dataclasses import dataclass, field
from math import floor, log

import numpy as np
from numpy.typing import NDArray

#: Width of a cell in log price and log ratio: impressions within a quarter of each other are taken for alike.
_CELL = 0.25
#: Auctions added to those in which an impression could have been won, so that one lucky win is no certainty.
_PRIOR_AUCTIONS = 5.0
#: Auctions over which what is told by their values fades, and how many auctions more say that all is as it was.
_LATEST, _AS_BEFORE = 2_000, 10.0
_RESCALE = 1e100


@dataclass(slots=True)
class Market:
    """Wins by cell of (price / value, price), and the multipliers bid with; both fade with every win.

    An impression of price p and value v is won by a multiplier of at least p / v. Its rate is the wins of its kind
    over the auctions whose multiplier would have won it: the estimator of occurrence over exposure, which is that of
    Kaplan and Meier for losses that hide the price. Wins are few and long remembered, and values drift meanwhile: the
    rate is corrected by how much oftener values like v came in the latest auctions than in all that are remembered.
    """

    memory_wins: float
    wins: dict[tuple[int, int], list[float]] = field(default_factory=dict)  # cell: weight, sum of prices, of values
    auctions: dict[int, float] = field(default_factory=dict)  # multiplier's cell: weight
    values: dict[int, float] = field(default_factory=dict)  # value's cell: weight
    latest: deque[int] = field(default_factory=lambda: deque(maxlen=4 * _LATEST))  # values' cells
    weight: float = 1.0  # of what comes next: it grows, which is cheaper than to let the past fade

    def add(self, value: float, bid: float, price: float | None) -> None:
        """Learn from one auction; `price` is what was paid, None when it was lost. Without a value it teaches nothing.

        A price of zero counts as the smallest that can be told from it.
        """
        if value <= 0.0:
            return
        kind = _cell(value)
        self.latest.append(kind)
        self.values[kind] = self.values.get(kind, 0.0) + self.weight
        if bid <= 0.0:
            return
        at = _cell(bid / value)
        self.auctions[at] = self.auctions.get(at, 0.0) + self.weight
        if price is None:
            return
        paid = max(price, bid * 1e-6)
        sums = self.wins.setdefault((_cell(paid / value), _cell(paid)), [0.0, 0.0, 0.0])
        sums[0] += self.weight
        sums[1] += self.weight * paid
        sums[2] += self.weight * value
        self.weight /= 1.0 - 1.0 / self.memory_wins
        if self.weight > _RESCALE:
            self._rescale()

    def impressions(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return (prices, values, expected number per auction), each (M,), of all kinds won, the best bargain first."""
        cells = sorted(self.wins)
        sums = np.array([self.wins[cell] for cell in cells])
        exposed = sorted(self.auctions)
        more = np.cumsum([self.auctions[cell] for cell in reversed(exposed)])[::-1]  # bid with at least this multiplier
        at = np.searchsorted(exposed, [ratio for ratio, _ in cells])
        exposure = np.where(at < len(exposed), more[np.minimum(at, len(exposed) - 1)], 0.0)
        rates = sums[:, 0] / (np.maximum(exposure, sums[:, 0]) + _PRIOR_AUCTIONS * self.weight)
        values = sums[:, 2] / sums[:, 0]
        return sums[:, 1] / sums[:, 0], values, self._current(values, rates)

    def _current(self, values: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rates (M,) of kinds of these values (M,) as the latest auctions are."""
        latest = np.array(self.latest)
        weights = np.exp(np.arange(1 - len(latest), 1) / _LATEST)
        kinds = [_cell(value) for value in values.tolist()]
        share = float(weights.sum()) / sum(self.values.values())
        came = np.array([float(weights[latest == kind].sum()) for kind in kinds]) + _AS_BEFORE
        expected = np.array([self.values.get(kind, 0.0) * share for kind in kinds]) + _AS_BEFORE
        current = rates * came / expected
        return current / max(float(current.sum()), 1.0)

    def _rescale(self) -> None:
        faded = 1.0 / self.weight
        self.wins = {
            cell: [part * faded for part in sums] for cell, sums in self.wins.items() if sums[0] * faded > 1e-6
        }
        self.auctions = {cell: weight * faded for cell, weight in self.auctions.items()}
        self.values = {cell: weight * faded for cell, weight in self.values.items()}
        self.weight = 1.0


def _cell(amount: float) -> int:
    return floor(log(amount) / _CELL)
