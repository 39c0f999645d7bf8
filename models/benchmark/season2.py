"""Reads iPinYou impressions as first-price auctions: what a bidder knows before it bids, and the price to win.

Only uniformly sampled rows count (`src` day_sample, in season 3 imp_sample), and those whose price to win the logged
bid reached. What is known after the auction, or chosen by the logged bidder, is no context.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import InputError
from dsp.openrtb.device import parse_user_agent
from dsp.pricing.landscape import FLOOR_LEVEL, NOTHING, Fields
from models.benchmark.table import cell, count, instant_ms, read
from models.features.encode import text_hash

#: Prices are in fen (cents of CNY) per thousand impressions.
MICROS_PER_FEN = 10_000
_SOURCES = ("day_sample", "imp_sample")
COLUMNS = (
    "exchange", "slot", "size", "visibility", "format", "floor", "domain", "hour", "region", "os", "browser",
    "advertiser", "creative",
)  # fmt: skip
_NEEDED = (
    "timestamp", "useragent", "region", "adexchange", "domain", "slotid", "slotwidth", "slotheight", "slotvisibility",
    "slotformat", "slotprice", "creative", "bidprice", "payprice", "advertiser", "src",
)  # fmt: skip
_PAIRS = (
    ("exchange", "advertiser"),
    ("slot", "advertiser"),
    ("domain", "advertiser"),
    ("slot", "browser"),
    ("slot", "floor"),
)


@dataclass(frozen=True, slots=True)
class Impressions:
    """Impressions in time order, n of them; prices in micros per thousand."""

    days: NDArray[np.int64]  # (n,), yyyymmdd
    advertisers: NDArray[np.str_]  # (n,)
    contexts: NDArray[np.int64]  # (n, len(COLUMNS))
    floors: NDArray[np.int64]  # (n,)
    prices: NDArray[np.int64]  # (n,), the price to win

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "Impressions":
        return Impressions(
            self.days[chosen],
            self.advertisers[chosen],
            self.contexts[chosen],
            self.floors[chosen],
            self.prices[chosen],
        )

    def __len__(self) -> int:
        return len(self.days)


def fields() -> Fields:
    """Return the fields of a landscape over these columns: each alone, the floor's magnitude, and some pairs."""
    single = [(number, NOTHING) for number in range(len(COLUMNS))] + [(FLOOR_LEVEL, NOTHING)]
    pairs = [(COLUMNS.index(first), COLUMNS.index(second)) for first, second in _PAIRS]
    return Fields.of(single + pairs)


def load(path: Path) -> Impressions:
    """Read a CSV in the season 2 format.

    Raises:
        InputError: no row counts, a column is missing, or a number or a time is none.
    """
    rows = read(path, _NEEDED, _impression)
    if not rows:
        sources = " or ".join(_SOURCES)
        raise InputError(f"{path} has no rows of source {sources} whose bid reached the price", reason="benchmark_file")
    rows.sort(key=itemgetter(0))
    _, days, advertisers, contexts, floors, prices = zip(*rows, strict=True)
    return Impressions(
        np.array(days, dtype=np.int64),
        np.array(advertisers, dtype=np.str_),
        np.array(contexts, dtype=np.int64),
        np.array(floors, dtype=np.int64),
        np.array(prices, dtype=np.int64),
    )


def _impression(row: Mapping[str, str]) -> tuple[int, int, str, list[int], int, int] | None:
    """Return time, day, advertiser, context, floor and price of a row that counts."""
    if row["src"] not in _SOURCES:
        return None
    price = cell(row, "payprice", count)
    if price > cell(row, "bidprice", count):
        return None
    return (
        cell(row, "timestamp", instant_ms),
        int(row["timestamp"][:8]),
        row["advertiser"],
        _context(row),
        cell(row, "slotprice", count) * MICROS_PER_FEN,
        price * MICROS_PER_FEN,
    )


def _context(row: Mapping[str, str]) -> list[int]:
    agent = parse_user_agent(row["useragent"])
    values = (
        row["adexchange"],
        row["slotid"],
        f"{row['slotwidth']}x{row['slotheight']}",
        row["slotvisibility"],
        row["slotformat"],
        row["slotprice"],
        row["domain"],
        row["timestamp"][8:10],
        row["region"],
        f"{agent.os} {agent.os_version}",
        agent.browser,
        row["advertiser"],
        row["creative"],
    )
    return [text_hash(value) for value in values]
