"""Searches the highest rate that keeps the service level, then looks beyond it and at what happens below it."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from loadtest.bids.drive import Closed
from loadtest.bids.run import Setting, Subject, ready
from loadtest.capacity import drain
from loadtest.capacity.events import Events
from loadtest.capacity.open import Open, Step

#: So many connections wait for their answers at once; beyond that requests wait for a connection.
CONNECTIONS = 256
_CLOSED_CONNECTIONS = 32
#: Each step halves what the capacity may be: after seven it is known to 1%.
STEPS = 7
_HIGHEST = 1.1  # of what a closed loop reached: more is not to be had
#: Of the answers of a step, those that were late and those that decided nothing: a fast no is no service.
FAILED_SHARE_MAX = 0.001
SHARE = 0.7  # of capacity, where one would run
OVERLOAD = 2.0
#: Below capacity each thing happens so often, in turn: what else the machine does in a step is not in the middle one.
ROUNDS = 3
#: A step in which the generator sent its requests so much later than they were due says little of the server.
LAG_MS_MAX = 2.0


def keeps(step: Step, slo_p99_ms: float) -> bool:
    """Tell whether a step kept the service level: the p99, and at most one answer in a thousand late or shed."""
    figures = step.report()
    return figures["p99"] <= slo_p99_ms and step.late + step.shed <= FAILED_SHARE_MAX * len(step.latencies_ms)


def search(offer: Callable[[float], Step], highest: float, slo_p99_ms: float) -> tuple[float, list[Step]]:
    """Return the highest rate that kept the service level, 0 where none did, and every step of the bisection."""
    low, high, steps = 0.0, highest, list[Step]()
    for _ in range(STEPS):
        steps.append(offer((low + high) / 2))
        if keeps(steps[-1], slo_p99_ms):
            low = steps[-1].rate
        else:
            high = steps[-1].rate
    return low, steps


def measure(subject: Subject, slo_p99_ms: float, seconds: float) -> dict[str, Any]:
    """Return the report.

    Raises:
        InputError: the file cannot be read, or holds no requests.
        PlatformError: the bidder did not start, or died, or lost a request.
    """
    with ready(subject, models=2) as setting:
        port = setting.bench.platform.ports.bid
        with closing(Closed(port, _CLOSED_CONNECTIONS, setting.supply)) as closed:
            closed.warm_up()
            full = closed.round(seconds)
        with closing(Open(port, CONNECTIONS, setting.supply)) as load:
            return _report(setting, load, full.requests / full.seconds, slo_p99_ms, seconds)


def _report(setting: Setting, load: Open, closed_rps: float, slo_p99_ms: float, seconds: float) -> dict[str, Any]:
    capacity, steps = search(lambda rate: _offered(setting, load, rate, seconds), closed_rps * _HIGHEST, slo_p99_ms)
    report: dict[str, Any] = {
        "capacity_rps": round(capacity, 1),
        "slo_p99_ms": slo_p99_ms,
        "closed_loop_rps": round(closed_rps, 1),
        "line_items": setting.subject.line_items,
        "mix": setting.subject.mix.value,
        "pinned": setting.core is not None,
        "steps": [{**step.report(), "shed": step.shed} for step in sorted(steps, key=lambda step: step.rate)],
    }
    if capacity:
        report["overload"] = _overload(setting, load, capacity, seconds)
        report["at_70_percent"] = _below(setting, load, capacity * SHARE, seconds)
    return report


def _offered(setting: Setting, load: Open, rate: float, seconds: float) -> Step:
    """Offer a rate, and count what was shed."""
    before = setting.bench.platform.metrics().shed
    step = load.step(rate, seconds)
    step.shed = setting.bench.platform.metrics().shed - before
    return step


def _overload(setting: Setting, load: Open, capacity: float, seconds: float) -> dict[str, Any]:
    """Offer twice the capacity. Goodput is what was decided in time: answered before tmax, and not shed."""
    step = _offered(setting, load, capacity * OVERLOAD, seconds)
    good = max(0, len(step.latencies_ms) - step.shed - step.late) / step.seconds
    return {
        **step.report(),
        "shed": step.shed,
        "goodput_rps": round(good, 1),
        "goodput_share": round(good / capacity, 4),
    }


def _below(setting: Setting, load: Open, rate: float, seconds: float) -> dict[str, Any]:
    """Offer less than the capacity, in peace and while things happen; raises PlatformError if a drain loses any."""
    events = Events(setting.bench, setting.models)
    found: dict[str, list[Step]] = {name: [] for name in ("nothing", *events.known, "drain")}
    for _ in range(ROUNDS):
        found["nothing"].append(load.step(rate, seconds))
        for name in events.known:
            with events.during(name):
                found[name].append(load.step(rate, seconds))
    for _ in range(ROUNDS):  # at the end: what has stood idle meanwhile is slow at first
        found["drain"].append(drain.step(setting, rate, seconds))
    return {name: middle(steps) for name, steps in found.items()}


def middle(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the report of the step whose p99 is the median, with the p99 of every step, and who was late in any."""
    reports = sorted((step.report() for step in steps), key=lambda report: report["p99"])
    late, refused = (sum(report[name] for report in reports) for name in ("late", "refused"))
    p99s = [report["p99"] for report in reports]
    return {**reports[len(reports) // 2], "late": late, "refused": refused, "p99s": p99s}


def main(subject: Subject, slo_p99_ms: float, seconds: float, picture: Path | None, as_json: bool) -> int:
    """Measure, print, and return the exit status: 1 where no rate keeps the service level."""
    return show(measure(subject, slo_p99_ms, seconds), picture, as_json)


def show(report: dict[str, Any], picture: Path | None, as_json: bool) -> int:
    """Print a report, draw it where a file is named, and return the exit status.

    Raises:
        OSError: the picture cannot be written; the report has been printed.
    """
    print(json.dumps(report) if as_json else table(report))
    if picture is not None:
        from loadtest.capacity.picture import draw

        draw(report, picture)
    worst = max(step["lag_p99"] for step in report["steps"])
    if worst > LAG_MS_MAX:
        print(f"loadtest: the load was up to {worst:.1f} ms behind (p99): its delay is in the figures", file=sys.stderr)
    return int(not report["capacity_rps"])


def table(report: dict[str, Any]) -> str:
    """Return the report for people."""
    rows = [("", step) for step in report["steps"]]
    rows += [(f"70%, {name}", step) for name, step in report.get("at_70_percent", {}).items()]
    rows += [("overload", report["overload"])] if "overload" in report else []
    columns = ("rate", "answered", "p50", "p90", "p99", "p999", "late")
    lines = [f"{'':<14}" + "".join(f"{name:>10}" for name in columns)]
    lines += [f"{name:<14}" + "".join(f"{step[column]:>10,.1f}" for column in columns) for name, step in rows]
    rate, slo = report["capacity_rps"], report["slo_p99_ms"]
    lines.append(f"capacity {rate:,.0f} requests/s with p99 within {slo:g} ms; {report['line_items']:,} line items")
    if "overload" in report:
        good = report["overload"]
        lines.append(f"at twice that {good['goodput_share']:.0%} of it are decided in time, {good['shed']:,} are shed")
    return "\n".join(lines)
