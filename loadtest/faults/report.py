"""`python -m loadtest faults`: runs seeds with faults and without, and prints what came of the money."""

import json
import sys
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dsp.kernel import logging
from dsp.kernel.processes import cores, side_by_side
from loadtest.faults.oracle import ViolationError
from loadtest.faults.plan import Faults, faults
from loadtest.faults.simulate import Outcome, Simulation

_BAR_CHARS = 10  # beside the figures in 80 columns


class Result(NamedTuple):
    """One seed with faults, and the same without."""

    seed: int
    faulty: Outcome
    clean: Outcome

    @property
    def value_ratio(self) -> float:
        """Return what was bought with faults over what was bought without."""
        return self.faulty.audit.value_micros / self.clean.audit.value_micros


def summary(results: list[Result]) -> dict[str, float]:
    """Return the figures of the command's contract."""
    faulty = [result.faulty.audit for result in results]
    found = faulty + [result.clean.audit for result in results]
    value = sum(audit.value_micros for audit in faulty)
    shown = value + sum(audit.late_value_micros for audit in faulty)
    paid = sum(audit.late_charged_count for audit in faulty)
    late = paid + sum(audit.late_count for audit in faulty)
    clean = max(1, sum(result.clean.audit.value_micros for result in results))
    return {
        "seeds": len(results),
        "overspend_micros": sum(audit.overspend_micros for audit in found),
        "double_billed": sum(audit.double_billed for audit in found),
        "lost": sum(audit.lost for audit in found),
        "value_ratio": round(value / clean, 4),
        "value_ratio_min": round(min(result.value_ratio for result in results), 4),
        "value_ratio_with_late": round(shown / clean, 4),  # what no budget paid for was shown as well: ours to pay
        "late_ratio": round(late / max(1, sum(audit.impressions for audit in faulty)), 4),
        "late_charged_ratio": round(paid / max(1, late), 4),  # of late wins, those that the budgets paid for
    }


def main(seeds: Iterable[int], as_json: bool, trace: bool, density: int = 1) -> int:
    """Run the seeds on all cores; return 0 when no invariant was broken. Progress goes to standard error."""
    if trace:
        return _trace(seeds, density)
    numbers, results = list(seeds), []
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("seeds", total=len(numbers))
        try:
            for result in side_by_side(partial(_run, density=density), numbers, cores()):
                results.append(result)
                progress.update(task, advance=1)
                if not console.is_terminal:
                    print(f"seed {result.seed}: value ratio {result.value_ratio:.3f}", file=sys.stderr)
        except ViolationError as broken:
            print(broken, file=sys.stderr)
            return 1
    found = summary(results)
    if as_json:
        print(json.dumps(found))
    else:
        show(results, found)
    return int(any(found[name] for name in ("overspend_micros", "double_billed", "lost")))


def _run(seed: int, density: int) -> Result:
    logging.configure("loadtest", "error")  # a process of its own has not been told that
    try:
        return Result(seed, Simulation(seed, faults(seed, density)).run(), Simulation(seed, Faults()).run())
    except ViolationError as broken:
        raise ViolationError(f"seed {seed}: {broken}") from broken


def _trace(seeds: Iterable[int], density: int) -> int:
    for seed in seeds:
        try:
            outcome = Simulation(seed, faults(seed, density), sys.stdout.write).run()
        except ViolationError as broken:
            print(f"seed {seed}: {broken}", file=sys.stderr)
            return 1
        print(f"digest {outcome.digest}")
    return 0


def show(results: list[Result], found: dict[str, float]) -> None:
    """Print the table, a row for each seed, and the sums below it."""
    title = "Money under faults: 16 bidders, each seed against itself without faults"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    names = (
        "seed",
        "impressions",
        "spent",
        "late,\npaid",
        "late,\nowed",
        "overspent",
        "billed\ntwice",
        "lost",
        "value\nratio",
    )
    for name in (*names, ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    low = min([0.9, *(result.value_ratio for result in results)])
    for result in results:
        audit, ratio = result.faulty.audit, result.value_ratio
        bar = "█" * round(_BAR_CHARS * max(0.0, ratio - low) / (1.05 - low))
        table.add_row(
            str(result.seed), f"{audit.impressions:,}", f"{audit.spend_micros / 1e6:.3f}",
            str(audit.late_charged_count), str(audit.late_count), str(audit.overspend_micros),
            str(audit.double_billed), str(audit.lost), f"{ratio:.3f}", bar,
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print("  ".join(f"{name} {value:,}" for name, value in found.items()))
