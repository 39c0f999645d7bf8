"""Measures a bidder and the reference in turns, and reports what one core answers."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsp.kernel.metrics import Stage
from loadtest.bids import serve, supply
from loadtest.bids.catalogue import Mix, catalogue
from loadtest.bids.drive import Closed, Round
from loadtest.bids.serve import Bench, cpu_seconds, memory_mb
from loadtest.platform import Metrics, no_bid_reasons
from loadtest.truth import percentiles

_US = 1e6
_ROUND_SECONDS = 2.0
#: Of the generator's processor; beyond it the rate is the generator's, not the server's.
LOAD_SHARE_MAX = 0.9
#: Of the answers; where more are fast refusals, there is more load than the bidder takes.
SHED_SHARE_MAX = 0.001


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured. `requests` is a file of JSON lines; None: simulated traffic."""

    requests: Path | None
    line_items: int
    mix: Mix
    model: bool  # else the prior scores


class Measured:
    """A server under load: all its rounds, and the processor time that they took it. `shed` counts its refusals."""

    def __init__(self, pid: int, load: Closed, shed: Callable[[], int] = lambda: 0) -> None:
        self._pid = pid
        self._load = load
        self._shed = shed
        self._cpu_seconds = 0.0
        self.rounds: list[Round] = []

    def round(self, seconds: float) -> None:
        """Measure one more round."""
        shed, busy_from = self._shed(), cpu_seconds(self._pid)
        found = self._load.round(seconds)
        self._cpu_seconds += cpu_seconds(self._pid) - busy_from
        found.shed = self._shed() - shed
        self.rounds.append(found)

    @property
    def rps(self) -> float:
        """Return the median round's decided requests per second."""
        return statistics.median(one.decided_per_second for one in self.rounds)

    @property
    def requests(self) -> int:
        """Return how many were answered."""
        return sum(one.requests for one in self.rounds)

    @property
    def shed(self) -> int:
        """Return how many of them were fast refusals."""
        return sum(one.shed for one in self.rounds)

    @property
    def cpu_us(self) -> float:
        """Return the processor time of a decided request, microseconds: all threads, and the kernel's for them."""
        return self._cpu_seconds / max(1, self.requests - self.shed) * _US


@dataclass(frozen=True, slots=True)
class Setting:
    """A bidder that is ready to be measured."""

    subject: Subject
    bench: Bench
    pid: int
    core: int | None
    supply: supply.Supply
    models: list[str]  # versions in the registry, the last the champion


@contextmanager
def ready(subject: Subject, models: int = 1) -> Iterator[Setting]:
    """Start a bidder with a generated catalogue made for the requests, and stop it in the end.

    Where models score, so many are published, the last of them as the champion.

    Raises:
        InputError: the file cannot be read, or holds no requests.
        PlatformError: the bidder did not start, or died.
    """
    bodies = supply.read(subject.requests)
    core, others = serve.cores()
    with TemporaryDirectory(prefix="dsp-bids-") as directory:
        bench = Bench(Path(directory))
        offered = supply.offered(bodies, bench.profile, int(time.time() * 1_000))
        made = catalogue(offered, subject.line_items, subject.mix)
        bench.publish(made)
        versions = []
        if subject.model and offered:
            from loadtest.bids.model import publish

            versions = [publish(bench.models, offered, made, seed) for seed in range(models)]
        with bench.bidder(core) as pid:
            before = os.sched_getaffinity(0) if core is not None else set()
            if core is not None:
                os.sched_setaffinity(0, set(others))
            try:
                yield Setting(subject, bench, pid, core, supply.prepare(bodies, bench.profile), versions)
            finally:
                if core is not None:
                    os.sched_setaffinity(0, before)


def measure(subject: Subject, connections: int, seconds: float) -> dict[str, Any]:
    """Return the report; raises as `ready`."""
    with (
        ready(subject) as setting,
        setting.bench.reference(setting.core) as (reference_pid, reference_port),
        closing(Closed(setting.bench.platform.ports.bid, connections, setting.supply)) as bid,
        closing(Closed(reference_port, connections, setting.supply)) as plain,
    ):
        bid.warm_up()
        plain.warm_up()
        scrape = setting.bench.platform.metrics
        before, count = scrape(), max(1, round(seconds / _ROUND_SECONDS))
        bidder, reference = Measured(setting.pid, bid, lambda: scrape().shed), Measured(reference_pid, plain)
        for _ in range(count):
            reference.round(seconds / count)
            bidder.round(seconds / count)
        return {**_report(setting, bidder, reference, (before, scrape())), "connections": connections}


def _report(
    setting: Setting, bidder: Measured, reference: Measured, scrapes: tuple[Metrics, Metrics]
) -> dict[str, Any]:
    latencies = [latency for one in bidder.rounds for latency in one.latencies_ms]
    # Round against round beside it: what else the machine did then is in both.
    ratios = [
        one.decided_per_second / other.decided_per_second
        for one, other in zip(bidder.rounds, reference.rounds, strict=True)
    ]
    return {
        "rps": round(bidder.rps, 1),
        "bid_rate": round(sum(one.bids for one in bidder.rounds) / bidder.requests, 4),
        "latency_ms": percentiles(latencies, "p50", "p99", "p999", digits=3),
        "late": sum(one.late for one in bidder.rounds),
        "cpu_us_per_request": round(bidder.cpu_us, 1),
        "rss_mb": round(memory_mb(setting.pid), 1),
        "stages_us": _stages_us(*scrapes),
        "reference_rps": round(reference.rps, 1),
        "ratio": round(statistics.median(ratios), 4),
        "reference_cpu_us_per_request": round(reference.cpu_us, 1),
        "cpu_ratio": round(reference.cpu_us / bidder.cpu_us, 4),
        "refused": sum(one.refused for one in bidder.rounds),
        "shed": bidder.shed,
        "no_bid_reasons": no_bid_reasons(*scrapes),
        "requests": bidder.requests,
        "line_items": setting.subject.line_items,
        "mix": setting.subject.mix.value,
        "model": scrapes[1].label("dsp_model_info", "version"),
        "pinned": setting.core is not None,
        "load_share": {
            "bidder": round(max(one.load_share for one in bidder.rounds), 3),
            "reference": round(max(one.load_share for one in reference.rounds), 3),
        },
    }


def _stages_us(before: Metrics, after: Metrics) -> dict[str, float]:
    """Return the mean time of each stage a request whose stages were observed, microseconds of the clock."""
    name = "dsp_bid_stage_duration_seconds"

    def grown(part: str, stage: Stage) -> float:
        return after.total(f"{name}_{part}", stage=stage.value) - before.total(f"{name}_{part}", stage=stage.value)

    observed = max(1.0, grown("count", Stage.DECODE))
    return {stage.value: round(grown("sum", stage) / observed * _US, 2) for stage in Stage}


def main(subject: Subject, connections: int, seconds: float, as_json: bool) -> int:
    """Measure, print, and return the exit status."""
    report = measure(subject, connections, seconds)
    print(json.dumps(report) if as_json else table(report))
    for name, share in report["load_share"].items():
        if share > LOAD_SHARE_MAX:
            print(
                f"loadtest: the load took {share:.0%} of its processor: the {name}'s rate is its own", file=sys.stderr
            )
    if report["shed"] > SHED_SHARE_MAX * report["requests"]:
        print(
            f"loadtest: {report['shed']:,} of {report['requests']:,} were refused undecided: offer fewer connections",
            file=sys.stderr,
        )
    return 0


def table(report: dict[str, Any]) -> str:
    """Return the report for people."""
    latency, stages = report["latency_ms"], report["stages_us"]
    reference_us, cpu_ratio = report["reference_cpu_us_per_request"], report["cpu_ratio"]
    rows = [
        ("bidder", f"{report['rps']:,.0f} requests/s, {report['bid_rate']:.1%} bid"),
        ("reference", f"{report['reference_rps']:,.0f} requests/s, of which the bidder has {report['ratio']:.3f}"),
        ("latency", f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms, p999 {latency['p999']:.2f} ms"),
        ("late", f"{report['late']} of {report['requests']:,}"),
        (
            "processor",
            f"{report['cpu_us_per_request']:.0f} us a request, reference {reference_us:.0f}: {cpu_ratio:.3f}",
        ),
        ("memory", f"{report['rss_mb']:.0f} MB"),
        ("stages, us", ", ".join(f"{name} {spent:.1f}" for name, spent in stages.items())),
        ("no bid", ", ".join(f"{reason} {count:,}" for reason, count in report["no_bid_reasons"].items()) or "-"),
        ("with", f"{report['line_items']:,} line items, mix {report['mix']}, model {report['model'] or 'none'}"),
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in rows)
