"""What money is worth when it buys only a few more impressions, by dynamic programming over time and money left.

A multiplier treats money as fine grained. Towards the end of a budget it is not: a dear impression of great value
is missed if too little is left for it, and the last coins buy nothing. After Cai et al., "Real-time bidding by
reinforcement learning in display advertising" (WSDM 2017), here on what the bidder has learned itself.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import NDArray

_GRID = 48  # amounts of money between nothing and all, the finer the smaller
_FINEST = 1 / 8  # of an average price


@dataclass(frozen=True, slots=True)
class Endgame:
    """Values by auctions left (rows (T,)) and money left (columns (G,), `money`), the bonus for spending included.

    Rows are single auctions up to `single` and then grow in proportion, as the value changes ever more slowly.
    `spends` (G,) is how much of the money is expected to be spent by the end, from the first auction on.
    """

    values: NDArray[np.float64]
    money: NDArray[np.float64]
    spends: NDArray[np.float64]
    bonus: float
    single: int

    def bid(self, value: float, left: float, auctions: int) -> float:
        """Return the most to pay for an impression, with `auctions` to come after it: the largest p that is worth it.

        That is value + bonus x p >= V(left) - V(left - p).
        """
        row, money = self.values[self._row(auctions)], self.money
        at = min(int(money.searchsorted(left)), len(money) - 1)
        if at == 0:
            return left
        share = (left - money[at - 1]) / (money[at] - money[at - 1])
        kept = row[at - 1] + (row[at] - row[at - 1]) * share - self.bonus * left
        after = np.append(row[:at] - self.bonus * money[:at], kept)  # worth of what would be left, at each amount
        first = int((after >= kept - value).argmax())
        if first == 0:
            return left
        below, above = after[first - 1], after[first]
        low, high = money[first - 1], min(money[first], left)
        crossing = low + (high - low) * (kept - value - below) / (above - below)
        return left - float(crossing)

    def unspent(self, left: float) -> float:
        """Return how much of what is left at the first auction is expected to be left at the end."""
        return left - float(np.interp(left, self.money, self.spends))

    def _row(self, auctions: int) -> int:
        steps = auctions
        if auctions > self.single:
            steps = self.single + int(log(auctions / self.single) / log(1.0 + 1.0 / self.single))
        return min(steps, len(self.values) - 1)


def solve(
    prices: NDArray[np.float64],
    values: NDArray[np.float64],
    rates: NDArray[np.float64],
    money_max: float,
    auctions: int,
    bonus: float,
    wins: int,
) -> Endgame:
    """Return the values of all money up to `money_max` over the last `auctions` auctions.

    Bellman's equation, one auction: V'(b) = V(b) + sum over kinds of rate x max(0, value + bonus x price + V(b - price)
    - V(b)), from V = 0 at the end; what is spent follows the same choices. While many auctions are left one step stands
    for several of them, so that no more than about one win falls in a step.

    Args:
        prices: of the kinds of impressions, (M,).
        values: of the same, (M,).
        rates: expected number per auction, (M,).
        money_max: the most that will be left; buys about `wins` impressions.
        auctions: how many are to come.
        bonus: what a unit of money spent is worth besides what it buys: the price of leaving it unspent.
        wins: how many impressions `money_max` buys.
    """
    growth = _growth(wins)
    steps = np.arange(_GRID + 1)
    money = np.asarray(money_max * ((1.0 + growth) ** steps - 1.0) / ((1.0 + growth) ** _GRID - 1.0), np.float64)
    rest = money - prices[:, None]
    below = np.clip(np.searchsorted(money, rest, side="right") - 1, 0, _GRID - 1)
    share = (rest - money[below]) / (money[below + 1] - money[below])
    reward = np.where(rest >= 0.0, (values + bonus * prices)[:, None], -np.inf)
    current, rows, done = np.zeros(_GRID + 1), [np.zeros(_GRID + 1)], 0.0
    spends = np.zeros(_GRID + 1)
    while done < auctions:
        step = max(1.0, done / wins)
        gain = _between(current, below, share)
        gain += reward - current
        more = _between(spends, below, share)
        more += prices[:, None] - spends
        spends = spends + step * (rates @ np.where(gain > 0.0, more, 0.0))
        current = current + step * (rates @ np.maximum(gain, 0.0))
        rows.append(current)
        done += step
    return Endgame(np.array(rows), money, spends, bonus, wins)


def _between(amounts: NDArray[np.float64], below: NDArray[np.intp], share: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.diff(amounts).take(below)
    found *= share
    found += amounts.take(below)
    return found


@lru_cache
def _growth(wins: int) -> float:
    # By how much grid steps grow so that the first is the finest and all together reach `wins` average prices.
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if ((1.0 + middle) ** _GRID - 1.0) / middle < wins / _FINEST:
            low = middle
        else:
            high = middle
    return low
