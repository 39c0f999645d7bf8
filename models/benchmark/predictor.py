"""Predictor benchmark: rows a second and the time of a call by batch size, as the library has it, as serving calls it,
and through the batcher by more requests than it can keep up with.
"""

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dsp.kernel.errors import InputError, UnavailableError
from dsp.kernel.lifecycle import loop_factory
from models.benchmark import contestants
from models.benchmark.contestants import Contestant, Graph
from models.benchmark.timing import Pace, batched, calls, median
from models.serving.session import Provider, choose
from models.serving.stack import Stack

HELP = "measure models and the batcher by batch size, on a CPU or a GPU"
BATCHES = (1, 4, 16, 32, 64, 256, 1_024, 4_096)
#: What one auction scores, and how many of them one of the batcher's requests has where a batch holds so many.
CANDIDATES = 32
REQUEST_ROWS = 16
#: Each figure is the median of so many turns. What is compared takes turns, so that a busy machine is fair to all.
ROUNDS = 3
#: As the bidder's: how soon one thread gets the interpreter from another.
_SWITCH_SECONDS = 0.000_5
_ITEMS = 50
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "lightgbm")
_COLUMNS = ("session", "served", "batcher")

Figures = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    parser.add_argument("--provider", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    parser.add_argument("--seconds", type=_positive, default=0.5, help="of each measurement; default: 0.5")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark and print its result; return the exit status.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    try:
        provider = choose(options.provider)
    except UnavailableError as fault:
        raise InputError(str(fault), reason="no_gpu") from fault
    result = measure(provider, options.seconds)
    if options.json:
        print(msgspec.json.encode(result).decode())
    else:
        show(result)
    return 0


def measure(
    provider: Provider, seconds: float, batches: Sequence[int] = BATCHES, trees: int = contestants.TREES
) -> dict[str, Any]:
    """Return device, versions, what an empty call costs, and the figures of each model by batch size."""
    with _serving_threads():
        overhead = _overhead(contestants.empty(provider), seconds)
        models = {
            one.name: {str(rows): _figures(one, rows, seconds) for rows in batches}
            for one in contestants.all_of(provider, trees)
        }
    return {
        "provider": provider,
        "device": _device(provider),
        "cpus": os.cpu_count(),
        "versions": {"python": platform.python_version(), **_versions()},
        "overhead_us": overhead,
        "models": models,
    }


def _overhead(empty: Graph, seconds: float) -> dict[str, float]:
    """Return the median microseconds of one row through a graph that does nothing; the batcher with one client."""
    alone = _run(batched(Stack(empty.session, 1), [empty.rows(1)], 1, 1, seconds, clients=1))
    return {
        "session": round(calls(empty.raw(1), 1, seconds).p50_us, 2),
        "served": round(calls(empty.served(1), 1, seconds).p50_us, 2),
        "batcher": round(alone.p50_us, 2),
    }


def _figures(one: Contestant | Graph, rows: int, seconds: float) -> Figures:
    """Measure one model at one batch size, each way in turn."""
    raw, served = one.raw(rows), one.served(rows) if isinstance(one, Graph) else None
    paces: dict[str, list[Pace]] = {}
    for _ in range(ROUNDS):
        paces.setdefault("session", []).append(calls(raw, rows, seconds / ROUNDS))
        if isinstance(one, Graph) and served is not None:
            paces.setdefault("served", []).append(calls(served, rows, seconds / ROUNDS))
            paces.setdefault("batcher", []).append(_saturated(one, rows, seconds / ROUNDS))
    found = {way: _rounded(median(measured)) for way, measured in paces.items()}
    if "batcher" in found:
        shares = sorted(
            through.rows_per_s / direct.rows_per_s
            for through, direct in zip(paces["batcher"], paces["session"], strict=True)
        )
        found["batcher"]["of_session"] = round(shares[len(shares) // 2], 3)
    return found


def _saturated(one: Graph, rows_max: int, seconds: float) -> Pace:
    rows = min(rows_max, REQUEST_ROWS)
    # Other rows for each, as trees take the way they have just been sooner.
    items = np.array_split(one.rows(rows * _ITEMS), _ITEMS)
    return _run(batched(Stack(one.session, rows_max), items, rows, rows_max, seconds))


def _run(measuring: Coroutine[Any, Any, Pace]) -> Pace:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(measuring)


@contextmanager
def _serving_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _rounded(pace: Pace) -> dict[str, float]:
    return {
        "rows_per_s": round(pace.rows_per_s),
        "p50_us": round(pace.p50_us, 1),
        "p99_us": round(pace.p99_us, 1),
        "cpu_us_per_row": round(pace.cpu_us_per_row, 3),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _device(provider: Provider) -> str:
    if provider == "cuda" and (tool := shutil.which("nvidia-smi")) is not None:
        asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
        if found.returncode == 0:
            return found.stdout.strip()
    if provider == "cuda":
        return "CUDA device 0"
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    console.print(f"{result['provider']}: {result['device']}, {result['cpus']} CPUs\n{versions}")
    overhead = ", ".join(f"{way} {cost:g}" for way, cost in result["overhead_us"].items())
    console.print(f"one row through an empty graph, microseconds: {overhead}\n")
    batches = list(next(iter(result["models"].values())))
    for title, cell in _TABLES.items():
        table = Table("model", "way", *batches, title=title, title_justify="left")
        for name, figures in result["models"].items():
            for way in _COLUMNS:
                if way in figures[batches[0]]:
                    table.add_row(name, way, *(cell(figures[batch][way]) for batch in batches))
        console.print(table)
    share = Table("model", *batches, title="batcher, rows a second over session.run's", title_justify="left")
    for name, figures in result["models"].items():
        if "batcher" in figures[batches[0]]:
            share.add_row(name, *(f"{figures[batch]['batcher']['of_session']:.2f}" for batch in batches))
    console.print(share)
    if str(CANDIDATES) in batches:
        total = Table("model", *_COLUMNS[:2], title=f"{CANDIDATES} candidates, microseconds", title_justify="left")
        for name, figures in result["models"].items():
            ways = (figures[str(CANDIDATES)].get(way) for way in _COLUMNS[:2])
            total.add_row(name, *("" if found is None else f"{found['p50_us']:.0f}" for found in ways))
        console.print(total)


_TABLES: Mapping[str, Callable[[Mapping[str, float]], str]] = {
    "rows a second": lambda pace: f"{pace['rows_per_s']:,.0f}",
    "processor time of all threads, microseconds a row": lambda pace: f"{pace['cpu_us_per_row']:.2f}",
    "microseconds, p50 / p99 (batcher: of a request, with more waiting than it can keep up with)": lambda pace: (
        f"{pace['p50_us']:,.0f} / {pace['p99_us']:,.0f}"
    ),
}


def _positive(text: str) -> float:
    number = float(text)
    if not 0.0 < number <= 60.0:
        raise argparse.ArgumentTypeError("must be above 0 and at most 60")
    return number
