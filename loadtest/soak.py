"""`python -m loadtest soak`: whether one bidder's memory stays flat under steady load.

The first part of the run fills what is bounded: caches, reservations until their bids expire, the log's buffers. After
it memory is held against time: the slope of a straight line, and the growth from the first to the last quarter.
"""

import json
import statistics
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from loadtest.bids.run import Setting, Subject, ready
from loadtest.bids.serve import memory_mb
from loadtest.capacity.open import Open, Step

CONNECTIONS = 64
#: Of the run; what is bounded fills in it.
WARM_UP_SHARE = 1 / 3
#: Growth after that which is not taken for a leak: the allocator's, and of what is bounded but not full yet.
GROWTH_SHARE_MAX = 0.05
_STEP_SECONDS = 2.0
_SECONDS_A_MINUTE = 60.0


class Sample(NamedTuple):
    """The process after so many seconds of load."""

    seconds: float
    rss_mb: float
    threads: int
    files: int


def measure(subject: Subject, seconds: float, rate: float) -> dict[str, Any]:
    """Return the report.

    Raises:
        InputError: the file cannot be read, or holds no requests.
        PlatformError: the bidder did not start, or died.
    """
    with (
        ready(subject) as setting,
        closing(Open(setting.bench.platform.ports.bid, CONNECTIONS, setting.supply)) as load,
    ):
        samples, passed, total = [_sample(setting, 0.0)], 0.0, Step(rate)
        while passed < seconds:
            step = load.step(rate, min(_STEP_SECONDS, seconds - passed))
            passed += step.seconds
            total.seconds, total.late, total.bids = passed, total.late + step.late, total.bids + step.bids
            total.latencies_ms += step.latencies_ms
            total.lags_ms += step.lags_ms
            samples.append(_sample(setting, passed))
    return {**judged(samples), "load": total.report(), "bids": total.bids, "line_items": subject.line_items}


def judged(samples: list[Sample]) -> dict[str, Any]:
    """Return what the samples after the warm-up say; `flat` is the verdict."""
    warm = [one for one in samples if one.seconds >= samples[-1].seconds * WARM_UP_SHARE]
    quarter = max(1, len(warm) // 4)
    first, last = (statistics.median(one.rss_mb for one in part) for part in (warm[:quarter], warm[-quarter:]))
    minutes = np.array([one.seconds for one in warm]) / _SECONDS_A_MINUTE
    slope = float(np.polyfit(minutes, [one.rss_mb for one in warm], 1)[0]) if len(warm) > 1 else 0.0
    flat = last <= first * (1.0 + GROWTH_SHARE_MAX) and warm[-1].files <= warm[0].files + CONNECTIONS
    return {
        "flat": flat,
        "seconds": round(samples[-1].seconds, 1),
        "rss_mb": {"start": round(samples[0].rss_mb, 1), "warm": round(first, 1), "end": round(last, 1)},
        "slope_mb_per_minute": round(slope, 3),
        "threads": [warm[0].threads, warm[-1].threads],
        "files": [warm[0].files, warm[-1].files],
    }


def _sample(setting: Setting, seconds: float) -> Sample:
    process = Path(f"/proc/{setting.pid}")
    counts = (len(list((process / name).iterdir())) for name in ("task", "fd"))
    return Sample(seconds, memory_mb(setting.pid), *counts)


def main(subject: Subject, seconds: float, rate: float, as_json: bool) -> int:
    """Measure, print, and return the exit status: 1 where memory grows."""
    report = measure(subject, seconds, rate)
    print(json.dumps(report) if as_json else table(report))
    return int(not report["flat"])


def table(report: dict[str, Any]) -> str:
    """Return the report for people."""
    rss, load = report["rss_mb"], report["load"]
    return "\n".join(
        [
            f"{'memory':<8} {rss['start']:.0f} MB at the start, {rss['warm']:.0f} warm, {rss['end']:.0f} at the end",
            f"{'slope':<8} {report['slope_mb_per_minute']:+.2f} MB a minute after the warm-up",
            f"{'load':<8} {load['answered']:,.0f} requests/s for {report['seconds']:,.0f} s, {report['bids']:,} bids",
            f"{'threads':<8} {report['threads'][0]} to {report['threads'][1]}, files {report['files']}",
            "memory is flat" if report["flat"] else "memory GROWS",
        ]
    )
