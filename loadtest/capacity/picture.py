"""Draws latency against rate: the quantiles of every step of the search, the service level, and the capacity."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_COLOURS = {"p50": "#4c78a8", "p90": "#72b7b2", "p99": "#e45756", "p999": "#b279a2"}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture of a report of loadtest.capacity.run as a PNG; raises OSError where that cannot be."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    rates = [step["rate"] for step in report["steps"]]
    for name, colour in _COLOURS.items():
        axes.plot(rates, [step[name] for step in report["steps"]], marker="o", color=colour, label=name)
    axes.axhline(report["slo_p99_ms"], color="#888", linestyle="--", label=f"p99 within {report['slo_p99_ms']:g} ms")
    axes.axvline(report["capacity_rps"], color="#888", linestyle=":", label=f"{report['capacity_rps']:,.0f}/s")
    axes.set(xlabel="requests per second, Poisson arrivals", ylabel="latency from when it was due, ms", yscale="log")
    axes.set_title(f"One bidder process, {report['line_items']:,} line items, mix {report['mix']}")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
