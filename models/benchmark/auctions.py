"""Reads recorded second-price auctions in order, cuts them into episodes, and knows an episode's hindsight optimum."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import InputError
from dsp.kernel.money import MICROS_PER_UNIT
from dsp.pricing.bid import price
from models.benchmark.table import cell, count, read

_COLUMNS = ("campaign", "click", "market_price", "pctr")
_SECOND_PRICE = np.array([False])
_NONE_MICROS_CPM = np.zeros(1)
_TOTAL_MICROS_MAX = 2.0**60  # so that no sum or budget overflows
_VALUE_MIN, _VALUE_MAX = 1e-100, 1e100  # likewise no price of a value, and no value of a stream


@dataclass(frozen=True, slots=True)
class Auctions:
    """n auctions in order. A market price of 1 is taken as one unit of the currency per thousand impressions."""

    prices_micros_cpm: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (n,), predicted click probability
    clicks: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> "Auctions":
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


def second_price_bid(value_micros_cpm: float, multiplier: float, bid_max: int) -> int:
    """Ask the platform's own pricing for the bid of one candidate in a second-price auction without a floor."""
    value, multipliers, most = np.array([value_micros_cpm]), np.array([multiplier]), np.array([float(bid_max)])
    none = _NONE_MICROS_CPM
    return int(price(value, multipliers, none, _SECOND_PRICE, 1.0, none, most)[0])


def load(path: Path, campaign: str, split: str | None) -> Auctions:
    """Read one campaign's auctions, of one split or of all, from a CSV, gzip or plain.

    Raises:
        InputError: no such auctions, a column is missing, or a price or probability is none.
    """

    def parse(row: Mapping[str, str]) -> tuple[float, float, int] | None:
        if row["campaign"].strip() != campaign or (split is not None and row["split"].strip() != split):
            return None
        return cell(row, "market_price", _amount), cell(row, "pctr", _value), cell(row, "click", count)

    rows = read(path, _COLUMNS if split is None else (*_COLUMNS, "split"), parse)
    if not rows:
        of_split = "" if split is None else f", split {split}"
        raise InputError(f"{path} has no auctions of campaign {campaign}{of_split}", reason="benchmark_file")
    prices, values, clicks = np.array(rows).T
    if prices.sum() * MICROS_PER_UNIT > _TOTAL_MICROS_MAX:
        raise InputError(f"{path} has prices too large to sum for campaign {campaign}", reason="benchmark_file")
    return Auctions(np.rint(prices * MICROS_PER_UNIT).astype(np.int64), values, clicks.astype(np.int64))


def _amount(text: str) -> float:
    amount = float(text)
    if not 0.0 <= amount < inf:
        raise ValueError(f"{text!r} is negative or no number")
    return amount


def _value(text: str) -> float:
    value = _amount(text)
    if value and not _VALUE_MIN <= value <= _VALUE_MAX:
        raise ValueError(f"{text!r} is out of range")
    return value
