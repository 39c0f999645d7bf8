"""What a price costs: an impression's curve, pacing and prices of 32 candidates, and the reservation of the best.

Run it by hand: python tests/bench/bench_pricing.py. It prints one JSON document: microseconds of this machine, the best
and the median of many rounds, and how many times a numpy addition of candidates x prices takes.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from timeit import repeat

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from bidder.offer import Candidates
from dsp.funnel import Selection
from dsp.ledger.lease import LeaseBook
from dsp.ledger.terms import LeaseReport, LeaseState, lease_id
from dsp.pacing.bids import pace
from dsp.pacing.columns import ControlColumns
from dsp.pricing.bid import price
from dsp.pricing.landscape import NOTHING, Fields, Landscape, WinCurve
from dsp.pricing.shade import shade
from models.training.landscape import Auctions, fit

CANDIDATES, COLUMNS, AUCTIONS = 32, 18, 6_000
PAIRS = [*((column, NOTHING) for column in range(COLUMNS)), *((column, column + 1) for column in range(6))]
NUMBER, ROUNDS = 20, 500
NOW_MS = 1_750_000_000_000


def fitted() -> tuple[Landscape, Auctions]:
    """Return a landscape of as many fields as a bidder's, over values of which a few are frequent and many rare."""
    random = np.random.default_rng(1)
    contexts = random.zipf(1.5, (AUCTIONS, COLUMNS)).astype(np.int64)
    floors = random.choice([0, 50_000, 200_000, 700_000], AUCTIONS)
    prices = np.maximum(floors, (random.lognormal(0.0, 0.8, AUCTIONS) * 100).astype(np.int64) * 10_000)
    auctions = Auctions(contexts, floors, prices - 1, prices)
    return fit(auctions, Fields.of(PAIRS)), auctions


def timed(runs: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Return microseconds a run, best and median, each with its caches to itself."""
    found = {}
    for name, run in runs.items():
        rounds = [seconds / NUMBER * 1e6 for seconds in repeat(run, number=NUMBER, repeat=ROUNDS)]
        found[name] = {"best_us": min(rounds), "median_us": median(rounds)}
    return found


def reservation() -> Callable[[int], object]:
    """Return what reserves a cost in a lease with money for all rounds."""
    book, day, numbers = LeaseBook(1), 20_000, count()
    book.reserve(10, day, "", 0, 0, NOW_MS)  # demand comes first
    book.wants(0)
    book.apply(LeaseReport([LeaseState(lease_id(1, 10, day), 10, day, 10**15, 0)], 0), 0)
    assert book.reserve(10, day, "first", 1, 0, NOW_MS) is not None
    return lambda cost: book.reserve(10, day, f"b{next(numbers)}", cost, 0, NOW_MS)


def main() -> None:
    landscape, auctions = fitted()
    value = np.linspace(1.0, 5.0, CANDIDATES) * 1e6
    ones, floors = np.ones(CANDIDATES), np.full(CANDIDATES, 200_000)
    first_price, fixed = np.ones(CANDIDATES, dtype=np.bool_), np.zeros(CANDIDATES, dtype=np.bool_)
    least, bid_min, bid_max = floors.astype(np.float64), np.zeros(CANDIDATES), np.full(CANDIDATES, 1e9)
    context = auctions.contexts[0]
    curve = landscape.curve(context, 200_000)
    reserve = reservation()
    same_shape = np.zeros((CANDIDATES, curve.lines.shape[1]))
    nothing, deals = np.zeros(CANDIDATES), (None,) * CANDIDATES
    rows = np.arange(CANDIDATES)
    selection = Selection(rows, rows, floors, first_price, fixed, deals)

    # Where nothing is below its floor or near the end of its money; where some are; and where all are near the end.
    left = {"pace": 1e15, "pace_near_the_end": 1e7}
    controls = {name: ControlColumns(ones, np.full(CANDIDATES, amount), NOW_MS) for name, amount in left.items()}
    controls["pace_below_floors"] = ControlColumns(ones * 0.05, np.full(CANDIDATES, np.inf), NOW_MS)

    def paced(name: str) -> NDArray[np.float64]:
        return pace(value, rows, controls[name], rows, least, bid_min, 2**63, NOW_MS)

    def priced(shading: WinCurve) -> NDArray[np.int64]:
        return price(value, ones, least, first_price, shading, bid_min, bid_max, fixed)

    def reserved(prices: NDArray[np.int64]) -> object:
        best = next(Candidates(selection, nothing, nothing, value, ones, prices, context).preferred())
        return reserve(prices.item(best) // 1_000)

    prices = priced(curve)
    found = timed(
        {
            "numpy_same_shape": lambda: np.add(same_shape, same_shape, out=same_shape),
            "curve": lambda: landscape.curve(context, 200_000),
            "shade": lambda: shade(value, nothing, curve),
            **{name: partial(paced, name) for name in controls},
            "price": lambda: priced(curve),
            "rank_and_reserve": lambda: reserved(prices),
            "price_and_reserve": lambda: reserved(priced(curve)),
            "all": lambda: reserved(priced(landscape.curve(context, 200_000))),
        }
    )
    unit = found["numpy_same_shape"]
    for entry in found.values():
        entry["times_numpy"] = entry["median_us"] / unit["median_us"]
    rounded = {name: {key: round(figure, 1) for key, figure in entry.items()} for name, entry in found.items()}
    print(json.dumps({"candidates": CANDIDATES, "prices": same_shape.shape[1], **rounded}, indent=2))


if __name__ == "__main__":
    main()
