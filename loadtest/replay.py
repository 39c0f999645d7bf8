"""Sends recorded requests, one JSON object a line, to a bidder started for it with the demo catalogue."""

import asyncio
import gzip
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import msgspec

from loadtest.exchange import client
from loadtest.platform import CATALOGUE, Metrics, Platform
from loadtest.truth import percentile

_STATUSES = ("200", "204", "400")


@dataclass(slots=True)
class Outcome:
    """What came back."""

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    bids: int = 0
    latencies_ms: list[float] = field(default_factory=list)


def replay(path: Path, exchange: str, connections: int) -> dict[str, Any]:
    """Start the platform in a temporary directory, send every line of a file, and return the report.

    Raises:
        OSError: the file cannot be read.
        PlatformError: the platform did not start, or died.
    """
    with TemporaryDirectory(prefix="dsp-replay-") as directory:
        platform = Platform(Path(directory))
        platform.run("dsp", "migrate")
        platform.run("dsp", "load", str(CATALOGUE))
        try:
            platform.up()
            before = platform.metrics()
            outcome = asyncio.run(send(lines(path), f"{platform.bid_url}/openrtb2/{exchange}", connections))
            platform.check()
            after = platform.metrics()
        finally:
            platform.down()
        faults = sum('"exception"' in line for line in _log(platform))
    return report(outcome, before, after, faults)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines that hold anything, as they are."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line.rstrip(b"\r\n")


async def send(bodies: Iterator[bytes], url: str, connections: int) -> Outcome:
    """Send every body, at most `connections` at a time, and return what came back."""
    outcome = Outcome()
    async with client(connections) as session:

        async def work() -> None:
            for body in bodies:  # the workers share one iterator
                await _one(session, url, body, outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(work())
    return outcome


async def _one(session: aiohttp.ClientSession, url: str, body: bytes, outcome: Outcome) -> None:
    outcome.requests += 1
    headers = {"Content-Type": "application/json", "x-openrtb-version": "2.5"}
    start = time.perf_counter()
    try:
        async with session.post(url, data=body, headers=headers) as answer:
            content = await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        outcome.unanswered += 1
        return
    outcome.latencies_ms.append((time.perf_counter() - start) * 1_000)
    outcome.statuses[str(answer.status)] += 1
    if answer.status == 200:
        response = msgspec.json.decode(content)
        outcome.bids += sum(len(seat["bid"]) for seat in response.get("seatbid", ()))


def report(outcome: Outcome, before: Metrics, after: Metrics, log_faults: int) -> dict[str, Any]:
    """Return the report; `before` and `after` are the bidder's metrics, `log_faults` the tracebacks in its log."""
    earlier = before.by("dsp_no_bids_total", "reason")
    reasons = {
        reason: int(count - earlier.get(reason, 0.0))
        for reason, count in sorted(after.by("dsp_no_bids_total", "reason").items(), key=lambda pair: -pair[1])
        if count > earlier.get(reason, 0.0)
    }
    errors = int(after.total("dsp_bid_requests_total", outcome="error"))
    return {
        "requests": outcome.requests,
        "status": {status: outcome.statuses[status] for status in sorted({*_STATUSES, *outcome.statuses})},
        "exceptions": max(errors, log_faults) + outcome.unanswered,
        "bids": outcome.bids,
        "no_bid_reasons": reasons,
        "latency_ms": {
            "p50": round(percentile(outcome.latencies_ms, 0.5), 3),
            "p99": round(percentile(outcome.latencies_ms, 0.99), 3),
        },
    }


def _log(platform: Platform) -> list[str]:
    path = platform.logs / "dsp-up.log"
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
