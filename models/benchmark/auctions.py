"""Reads recorded second-price auctions in order, cuts them into episodes, and knows an episode's hindsight optimum."""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import InputError
from dsp.kernel.money import MICROS_PER_UNIT

_COLUMNS = ("campaign", "split", "click", "market_price", "pctr")


@dataclass(frozen=True, slots=True)
class Auctions:
    """n auctions in order. A market price of 1 is taken as one unit of the currency per thousand impressions."""

    prices_micros_cpm: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (n,), predicted click probability
    clicks: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> "Auctions":
        return Auctions(self.prices_micros_cpm[part], self.values[part], self.clicks[part])

    def episodes(self, length: int) -> Iterator["Auctions"]:
        """Yield the auctions in parts of `length`; the last part may be shorter."""
        return (self[start : start + length] for start in range(0, len(self), length))

    def optimum(self, budget_micros_cpm: float) -> float:
        """Return the most value that the budget could have bought: the fractional knapsack, best bargains first.

        Each impression costs its market price; the one that the budget does not reach in full counts in part.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(self.values > 0.0, self.prices_micros_cpm / self.values, np.inf)
        order = np.argsort(ratios, kind="stable")
        spent = self.prices_micros_cpm[order].cumsum()
        whole = int(spent.searchsorted(budget_micros_cpm, side="right"))
        value = float(self.values[order[:whole]].sum())
        if whole == len(self):
            return value
        left = budget_micros_cpm - (float(spent[whole - 1]) if whole else 0.0)
        return value + float(self.values[order[whole]]) * left / float(self.prices_micros_cpm[order[whole]])


def load(path: Path, campaign: str, split: str | None) -> Auctions:
    """Read one campaign's auctions, of one split or of all, from a CSV (gzip).

    Raises:
        InputError: no such auctions, a column is missing, or a price or probability is none.
    """
    prices, values, clicks = [], [], []
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            at = {name: number for number, name in enumerate(next(rows, []))}
            of_campaign, of_split, of_click, of_price, of_value = (at[name] for name in _COLUMNS)
            for row in rows:
                if row[of_campaign] == campaign and split in (None, row[of_split]):
                    prices.append(float(row[of_price]))
                    values.append(float(row[of_value]))
                    clicks.append(int(float(row[of_click])))
    except (KeyError, ValueError, IndexError, gzip.BadGzipFile, EOFError) as fault:
        raise InputError(f"{path} is not a file of auctions: {fault!r}", reason="benchmark_file") from fault
    price, value = np.array(prices), np.array(values)
    if not len(price) or not np.isfinite(price).all() or not np.isfinite(value).all() or min(*price, *value) < 0.0:
        what = "has no" if not len(price) else "has prices or probabilities that are none for"
        raise InputError(f"{path} {what} auctions of campaign {campaign}", reason="benchmark_file")
    return Auctions(np.rint(price * MICROS_PER_UNIT).astype(np.int64), value, np.array(clicks, dtype=np.int64))
