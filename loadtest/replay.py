"""Sends recorded requests, one JSON object a line, to a bidder started for it with the demo catalogue.

There is no auction: every bid is told that it lost, so that the money it reserved is free for the next. The first
lines are sent beforehand, uncounted: a bidder leases money for what it finds itself bidding on.
"""

import asyncio
import gzip
import time
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from dsp.kernel.errors import InputError
from dsp.openrtb.macros import expand
from loadtest.auction import LOSS_OUTBID
from loadtest.client import Client
from loadtest.platform import CATALOGUE, EXCHANGES_SHIPPED, Metrics, Platform, no_bid_reasons
from loadtest.truth import percentiles

WARM_UP_LINES = 400
_WARM_UP_SECONDS = 0.5
_WARM_UP_ROUNDS = 4
_STATUSES = ("200", "204", "400")
_GZIP_MAGIC = b"\x1f\x8b"


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
        InputError: the file cannot be read, or holds no requests.
        PlatformError: the platform did not start, or died.
    """
    if not sum(1 for _ in lines(path)):  # to its end: fail before the platform is started
        raise InputError(f"{path} holds no requests", reason="requests_file")
    with TemporaryDirectory(prefix="dsp-replay-") as directory:
        platform = Platform(Path(directory), exchanges=EXCHANGES_SHIPPED)
        platform.run("dsp", "migrate")
        platform.run("dsp", "load", str(CATALOGUE))
        try:
            platform.up()
            url = f"{platform.bid_url}/openrtb2/{exchange}"
            _warm_up(Sender(url, platform.ends_tls), path)
            before = platform.metrics()
            outcome = asyncio.run(Sender(url, platform.ends_tls).send(lines(path), connections))
            platform.check()
            after = platform.metrics()
        finally:
            platform.down()
        faults = sum('"exception"' in line for line in _log(platform))
    return report(outcome, before, after, faults)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, gzip or plain, that hold anything, as they are but for the file's byte order mark.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as file:
            for number, line in enumerate(file):
                body = line.rstrip(b"\r\n") if number else line.rstrip(b"\r\n").removeprefix(BOM_UTF8)
                if body.strip():
                    yield body
    except (OSError, EOFError, zlib.error) as fault:
        told = fault.strerror if isinstance(fault, OSError) and fault.strerror else fault
        raise InputError(f"{path} cannot be read: {told}", reason="requests_file") from fault


def _warm_up(sender: "Sender", path: Path) -> None:
    """Send the first lines a few times over a few seconds, so that leases, caches and connections are there."""
    for _ in range(_WARM_UP_ROUNDS):
        asyncio.run(sender.send(islice(lines(path), WARM_UP_LINES), connections=1))
        time.sleep(_WARM_UP_SECONDS)


class Sender:
    """Sends bodies to one bid URL; `ends_tls` as of the client."""

    def __init__(self, url: str, ends_tls: tuple[str, str]) -> None:
        self._url = url
        self._ends_tls = ends_tls
        self._outcome = Outcome()

    async def send(self, bodies: Iterator[bytes], connections: int) -> Outcome:
        """Send every body, at most `connections` at a time, and return what came back."""
        async with Client(connections, ends_tls=self._ends_tls) as client:

            async def work() -> None:
                for body in bodies:  # the workers share one iterator
                    await self._one(client, body)

            async with asyncio.TaskGroup() as group:
                for _ in range(connections):
                    group.create_task(work())
        return self._outcome

    async def _one(self, client: Client, body: bytes) -> None:
        outcome = self._outcome
        outcome.requests += 1
        headers = {"Content-Type": "application/json", "x-openrtb-version": "2.5"}
        start = time.perf_counter()
        try:
            answer = await client.post(self._url, body, headers)
        except OSError:
            outcome.unanswered += 1
            return
        outcome.latencies_ms.append((time.perf_counter() - start) * 1_000)
        outcome.statuses[str(answer.status)] += 1
        if answer.status == 200:
            bids = [bid for seat in msgspec.json.decode(answer.body).get("seatbid", ()) for bid in seat["bid"]]
            outcome.bids += len(bids)
            for bid in bids:
                await self._lose(client, bid.get("lurl", ""))

    async def _lose(self, client: Client, url: str) -> None:
        if not url:
            return
        try:
            await client.get(expand(url, {"AUCTION_LOSS": str(LOSS_OUTBID)}))
        except OSError:
            return  # a lost loss notice is no fault: the reservation ends by itself


def report(outcome: Outcome, before: Metrics, after: Metrics, log_faults: int) -> dict[str, Any]:
    """Return the report; `before` and `after` are the bidder's metrics, `log_faults` the tracebacks in its log."""
    errors = int(after.total("dsp_bid_requests_total", outcome="error"))
    return {
        "requests": outcome.requests,
        "status": {status: outcome.statuses[status] for status in sorted({*_STATUSES, *outcome.statuses})},
        "exceptions": max(errors, log_faults) + outcome.unanswered,
        "bids": outcome.bids,
        "no_bid_reasons": no_bid_reasons(before, after),
        "latency_ms": percentiles(outcome.latencies_ms, "p50", "p99", digits=3),
    }


def _log(platform: Platform) -> list[str]:
    path = platform.logs / "dsp-up.log"
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
