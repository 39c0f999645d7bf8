"""Shading benchmark: recorded impressions as first-price auctions, bid for by dsp.pricing, in shares of what an oracle
that knows every price would keep. The later days are seen by nothing but the score, and by the hindsight constant.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import InputError
from dsp.pricing.landscape import WinCurve
from dsp.pricing.shade import shade
from models.benchmark import season2
from models.benchmark.chart import chart
from models.benchmark.season2 import Impressions

HELP = "shade recorded impressions as first-price auctions, beside constants and the oracle"
#: What an impression is worth, in its advertiser's mean market prices in training.
MULTIPLES = (1.0, 1.5, 2.0, 3.0)
#: The censored model's reference bidder bids its worth times a factor drawn evenly from here: never above what the
#: impression is worth, as any bidder with that worth would, and wide enough to learn from.
REFERENCE_FACTORS = (0.3, 1.0)
REFERENCE_SEED = 7
_CONSTANTS = np.arange(0.01, 1.001, 0.01)
_DECILES = 10


class Calibration(NamedTuple):
    """Win rates at the reference bids of the test days, by tenth of the predicted rate: predicted and found, (10,), or
    one for each row where there are fewer.
    """

    predicted: NDArray[np.float64]
    found: NDArray[np.float64]


class Result(NamedTuple):
    """Shares of the oracle's surplus by multiple and bidder, and how far F is to be believed."""

    shares: dict[str, dict[str, float]]
    calibration: Calibration
    counts: dict[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    parser.add_argument("--events", required=True, type=Path, help="CSV.gz in the season 2 format")
    parser.add_argument("--train-until", required=True, type=int, metavar="YYYYMMDD", help="last day to learn from")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw shares and calibration into this file")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark and print its result; return the exit status."""
    impressions = season2.load(options.events)
    result = measure(impressions, options.train_until)
    if options.json:
        print(msgspec.json.encode(result.shares).decode())
    else:
        print(_table(result))
    if options.plot is not None:
        _draw(result, options.plot)
    return 0


def measure(impressions: Impressions, train_until: int) -> Result:
    """Train on the days up to a date (yyyymmdd), bid on the later ones.

    Raises:
        InputError: there are no impressions on one side of the date.
    """
    from models.training import landscape

    train, test = impressions[impressions.days <= train_until], impressions[impressions.days > train_until]
    if not len(train) or not len(test):
        days = f"{impressions.days.min()} to {impressions.days.max()}"
        raise InputError(f"impressions of {days}: none on one side of {train_until}", reason="benchmark_file")
    fields = season2.fields()
    known_worth, worth = _worth(train, train), _worth(train, test)

    def fit(low: NDArray[np.int64], high: NDArray[np.int64]) -> list[WinCurve]:
        fitted = landscape.fit(landscape.Auctions(train.contexts, train.floors, low, high), fields)
        return [fitted.curve(*given) for given in zip(test.contexts, test.floors.tolist(), strict=True)]

    curves = fit(train.prices - 1, train.prices)
    prices, counts = np.unique(train.prices, return_counts=True)
    overall = [WinCurve.of(prices.astype(np.float64), counts.cumsum() / len(train))] * len(test)
    shares: dict[str, dict[str, float]] = {}
    for multiple in MULTIPLES:
        bids = reference_bids(multiple * known_worth)
        won = bids >= train.prices
        censored = fit(np.where(won, train.prices - 1, bids), np.where(won, train.prices, landscape.NEVER_MICROS_CPM))
        shares[str(multiple)] = _shares(multiple * worth, test, overall, curves, censored)
    calibration = _calibration(curves, reference_bids(2.0 * worth), test.prices)
    return Result(shares, calibration, {"training": len(train), "test": len(test)})


def reference_bids(worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the jittered bids of a bidder that does not know the market, (n,)."""
    factors = np.random.default_rng(REFERENCE_SEED).uniform(*REFERENCE_FACTORS, len(worth))
    return (worth * factors).astype(np.int64)


def _worth(train: Impressions, impressions: Impressions) -> NDArray[np.float64]:
    """Return the mean market price of each impression's advertiser in training; of all, if it was not there."""
    means = {name: train.prices[train.advertisers == name].mean() for name in np.unique(train.advertisers)}
    overall = train.prices.mean()
    return np.array([means.get(name, overall) for name in impressions.advertisers])


def _shares(
    worth: NDArray[np.float64],
    test: Impressions,
    overall: Sequence[WinCurve],
    ours: Sequence[WinCurve],
    censored: Sequence[WinCurve],
) -> dict[str, float]:
    floors = test.floors.astype(np.float64)

    def surplus(bids: NDArray[np.float64]) -> float:
        return float(np.where(bids >= test.prices, worth - bids, 0.0).sum())

    def shaded(curves: Sequence[WinCurve]) -> float:
        return surplus(
            np.array([shade(worth[n : n + 1], floors[n : n + 1], curve)[0] for n, curve in enumerate(curves)])
        )

    oracle = float(np.maximum(worth - test.prices, 0.0).sum())
    found = {
        "none": surplus(worth),
        "best_constant": max(surplus(factor * worth) for factor in _CONSTANTS),
        "global_cdf": shaded(overall),
        "ours": shaded(ours),
        "ours_censored": shaded(censored),
    }
    return {name: round(value / oracle, 4) if oracle > 0.0 else 0.0 for name, value in found.items()}


def _calibration(curves: Sequence[WinCurve], bids: NDArray[np.int64], prices: NDArray[np.int64]) -> Calibration:
    predicted = np.array([curve.at(float(bid)) for curve, bid in zip(curves, bids, strict=True)])
    tenths = np.array_split(np.argsort(predicted, kind="stable"), min(_DECILES, len(predicted)))
    won = bids >= prices

    def means(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.array([values[tenth].mean() for tenth in tenths])

    return Calibration(means(predicted), means(won))


def _table(result: Result) -> str:
    names = list(next(iter(result.shares.values())))
    lines = [
        "{training:,} impressions to learn from, {test:,} to bid for; shares of the oracle's surplus".format(
            **result.counts
        ),
        "worth x" + "".join(f"{name:>15}" for name in names),
    ]
    lines += [
        f"{multiple:>7}" + "".join(f"{shares[name]:15.4f}" for name in names)
        for multiple, shares in result.shares.items()
    ]
    lines += ["", chart({f"x{multiple}": shares for multiple, shares in result.shares.items()})]
    lines += ["", "win rate at the reference bids, by tenth of the predicted rate", "tenth     predicted  found"]
    lines += [
        f"{number:>5}{predicted:14.3f}{found:7.3f}"
        for number, (predicted, found) in enumerate(zip(*result.calibration, strict=True), 1)
    ]
    return "\n".join(lines)


def _draw(result: Result, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(next(iter(result.shares.values())))
    width, places = 0.8 / len(names), np.arange(len(result.shares))
    for number, name in enumerate(names):
        heights = [shares[name] for shares in result.shares.values()]
        left.bar(places + (number - len(names) / 2 + 0.5) * width, heights, width, label=name.replace("_", " "))
    left.set_xticks(places, [f"{multiple} x" for multiple in result.shares])
    left.set(xlabel="worth, in mean market prices", ylabel="share of the oracle's surplus", ylim=(0, 1))
    left.legend(fontsize=8)
    right.plot([0, 1], [0, 1], color="grey", linewidth=1)
    right.plot(*result.calibration, marker="o")
    right.set(xlabel="predicted win rate", ylabel="found win rate", xlim=(0, 1), ylim=(0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
