"""Pacing benchmark: recorded second-price auctions bid for by dsp.pacing and dsp.pricing under tight budgets.

A bidder sees an impression's value, then whether it won, and the price only if it did. What it has learned carries
over from episode to episode; money does not. Beside it stand reference bidders and each episode's hindsight optimum.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from dsp.kernel.processes import cores, side_by_side
from dsp.pacing.auctions import AuctionPacer
from models.benchmark import baselines
from models.benchmark.auctions import Auctions, load, second_price_bid
from models.benchmark.chart import chart

HELP = "replay recorded second-price auctions under budgets, beside reference bidders and the hindsight optimum"
_CPM = 1_000
#: A budget of more than all auctions cost is no budget; this one still fits 64 bits with the highest prices.
_FRACTION_MIN = 0.125
#: A process takes as long to start as so many auctions to replay.
_AUCTIONS_PER_PROCESS = 20_000


@dataclass(slots=True)
class Outcome:
    """What was bought in one run; money in micros per thousand impressions."""

    value: float = 0.0
    clicks: int = 0
    spent_micros_cpm: int = 0
    overspent_micros_cpm: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    parser.add_argument(
        "--auctions", required=True, type=Path, help="CSV, gzip or plain: campaign,split,click,market_price,pctr"
    )
    parser.add_argument("--campaign", required=True, help="whose auctions to replay")
    parser.add_argument("--split", help="only this split's; default: all in order")
    parser.add_argument("--episode", type=_positive, default=1_000, help="auctions in an episode, each with a budget")
    parser.add_argument("--fractions", type=_fractions, default="2,4,8,16,32,64", help="budgets: one over these")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the shares into this file")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark and print its result; return the exit status."""
    result = measure(load(options.auctions, options.campaign, options.split), options.episode, options.fractions)
    if options.json:
        print(msgspec.json.encode(result).decode())
    else:
        _show(result, f"campaign {options.campaign}, episodes of {options.episode:,} auctions")
    if options.plot is not None:
        _draw(result, options.plot)
    return 0


def measure(auctions: Auctions, length: int, fractions: list[float]) -> dict[str, Any]:
    """Return the benchmark's document: for each fraction the shares of the hindsight optimum's value.

    A budget is the mean market price of the stream times the auctions of the episode, over the fraction.
    """
    processes = min(cores(), len(auctions) * len(fractions) // _AUCTIONS_PER_PROCESS)
    found = side_by_side(partial(_row, auctions, length), fractions, processes)
    rows = {f"{fraction:g}": row for fraction, row in zip(fractions, found, strict=True)}
    return {"fractions": rows, "mean_value_ratio": sum(row["value_ratio"] for row in rows.values()) / len(rows)}


def _row(auctions: Auctions, length: int, fraction: float) -> dict[str, Any]:
    rate = float(auctions.prices_micros_cpm.mean()) / fraction
    budgets = [int(rate * len(episode)) for episode in auctions.episodes(length)]
    parts = zip(auctions.episodes(length), budgets, strict=True)
    best = sum(episode.optimum(budget) for episode, budget in parts) or 1.0
    outcome = replay(auctions, length, budgets)
    return {
        "value_ratio": outcome.value / best,
        "clicks": outcome.clicks,
        "spend_ratio": outcome.spent_micros_cpm / max(sum(budgets), 1),
        "overspend_micros": -(-outcome.overspent_micros_cpm // _CPM),
        "baselines": {name: value / best for name, value in baselines.scores(auctions, length, rate).items()},
    }


def replay(auctions: Auctions, length: int, budgets_micros_cpm: list[int]) -> Outcome:
    """Return what one pacer buys, episode after episode, each with its budget."""
    pacer, outcome = AuctionPacer(), Outcome()
    for episode, budget in zip(auctions.episodes(length), budgets_micros_cpm, strict=True):
        pacer.begin(budget, len(episode))
        left = budget
        rows = zip(episode.values.tolist(), episode.prices_micros_cpm.tolist(), episode.clicks.tolist(), strict=True)
        for value, market_price, click in rows:
            worth = pacer.bid(value)
            bid = second_price_bid(value, worth / value, left) if worth > 0.0 else 0
            won = bid > 0 and bid >= market_price
            if won:
                left -= market_price
                outcome.value += value
                outcome.clicks += click
            pacer.settle(value, bid, market_price if won else None)
        outcome.spent_micros_cpm += budget - left
        outcome.overspent_micros_cpm += max(-left, 0)
    return outcome


def _show(result: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(next(iter(result["fractions"].values()))["baselines"])
    table = Table(title=f"{title}: shares of the hindsight optimum's value", title_justify="left")
    for column in ("budget", "ours", "spent", "overspent", "clicks", *names):
        table.add_column(column, justify="right", no_wrap=True)
    for fraction, row in result["fractions"].items():
        own = (f"{row['value_ratio']:.4f}", f"{row['spend_ratio']:.4f}", str(row["overspend_micros"]))
        others = (f"{row['baselines'][name]:.4f}" for name in names)
        table.add_row(f"1/{fraction}", *own, f"{row['clicks']:,}", *others)
    console = Console(width=max(Console().width, 140))
    console.print(table)
    console.print(f"mean {result['mean_value_ratio']:.4f}\n")
    rows = {f"1/{name}": {**row["baselines"], "ours": row["value_ratio"]} for name, row in result["fractions"].items()}
    console.print(chart(rows), highlight=False)


def _draw(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    rows, fractions = list(result["fractions"].values()), list(result["fractions"])
    for name in rows[0]["baselines"]:
        axes.plot(fractions, [row["baselines"][name] for row in rows], marker=".", linewidth=1, label=name)
    axes.plot(fractions, [row["value_ratio"] for row in rows], marker="o", linewidth=2.5, color="black", label="ours")
    axes.set(xlabel="budget: mean price of all auctions, over", ylabel="share of the hindsight optimum", ylim=(0, 1.02))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _fractions(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if not all(_FRACTION_MIN <= number < inf for number in numbers):
        raise argparse.ArgumentTypeError(f"must be at least {_FRACTION_MIN}")
    return numbers
