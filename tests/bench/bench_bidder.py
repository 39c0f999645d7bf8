"""What the bidder process costs the processor, by kind of work, with the demo catalogue and the model of a demo.

Run it by hand after `make demo`: python tests/bench/bench_bidder.py [--rate N] [--seconds N] [--rounds N]. It starts
`dsp up` in a directory of its own, drives an open loop over kept connections, and reads the bidder's processor time
from the kernel, all threads: the idle process, bare HTTP (`GET /ready`), requests nobody bids on, requests with bids,
and notices. What a kind costs is its time less that of the idle process. Rounds repeat; the least of each kind counts.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from dsp.openrtb.macros import expand
from loadtest.auction import LOSS_OUTBID
from loadtest.client import Client
from loadtest.platform import CATALOGUE, Platform
from loadtest.traffic import Request, Traffic

MODELS = Path(__file__).parents[2] / "var" / "demo" / "models"
FLIGHT_SECONDS = 3_600
REQUESTS = 4_000  # kept ready; sent again and again under new ids
WARM_UP_SECONDS = 6.0
#: Above every bid of the catalogue, in the request's currency.
FLOOR_CPM = 100_000.0
_MACROS = {"AUCTION_LOSS": str(LOSS_OUTBID), "AUCTION_PRICE": "", "AUCTION_MIN_TO_WIN": "9.99"}


class Reading(NamedTuple):
    """Processor time of a process so far, nanoseconds, and how often its threads went to sleep."""

    main_ns: int
    others_ns: int
    sleeps: int

    def since(self, earlier: "Reading") -> "Reading":
        """Return the difference."""
        return Reading(*(now - before for now, before in zip(self, earlier, strict=True)))


def reading(pid: int) -> Reading:
    """Read /proc: the event loop's thread, and all others together."""
    main_ns = others_ns = sleeps = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent_ns = int((task / "schedstat").read_text(encoding="ascii").split()[0])
        status = (task / "status").read_text(encoding="ascii")
        sleeps += int(status.partition("\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
        if task.name == str(pid):
            main_ns = spent_ns
        else:
            others_ns += spent_ns
    return Reading(main_ns, others_ns, sleeps)


class Driver:
    """Sends one kind of work after the other to one platform."""

    def __init__(self, platform: Platform, client: Client, rate: float, seconds: float) -> None:
        self._platform = platform
        self._client = client
        self._rate = rate
        self._count = int(rate * seconds)
        self._seconds = seconds
        self._requests = [Traffic(3).request(index) for index in range(REQUESTS)]
        self._dear = [_dear(request) for request in self._requests]
        self._elsewhere = [Traffic(3, elsewhere=1.0).request(index) for index in range(REQUESTS)]
        self._next = 0
        self._urls: list[str] = []
        self.bids = 0
        status = json.loads((platform.data_dir / "up.json").read_text(encoding="utf-8"))
        self._pid = int(status["children"]["bidder"]["pid"])

    async def warm_up(self) -> None:
        """Bid and lose for a while: leases, caches, connections."""
        self._count = int(self._rate * WARM_UP_SECONDS / 2)
        for _ in range(2):
            await self._steadily(self._bid)
            await self._steadily(self._notice)
        self._count = int(self._rate * self._seconds)

    async def round(self) -> dict[str, dict[str, float]]:
        """Return microseconds an event by kind of work, and the idle process's in a millisecond."""
        before = reading(self._pid)
        began = time.perf_counter()
        await asyncio.sleep(self._seconds)
        idle, seconds = reading(self._pid).since(before), time.perf_counter() - began
        table = {"idle, one second": _row(idle, Reading(0, 0, 0), seconds, 0.0, 1.0)}
        kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("GET /ready", self._ready),
            ("request from elsewhere", self._from_elsewhere),
            ("request, no bid", self._no_bid),
            ("request, bid", self._bid),
            ("notice", self._notice),
        ]
        for name, send in kinds:
            before, began, bids = reading(self._pid), time.perf_counter(), self.bids
            count = await self._steadily(send)
            spent = reading(self._pid).since(before)
            passed = time.perf_counter() - began
            table[name] = _row(spent, idle, count, passed, seconds)
            if send == self._bid:
                table[name]["bids"] = (self.bids - bids) / count
        return table

    async def _steadily(self, send: Callable[[], Awaitable[None]]) -> int:
        """Call at the rate until the count is reached, or the notices are used up; return how often."""
        flying: set[asyncio.Task[None]] = set()
        count = min(self._count, len(self._urls)) if send == self._notice else self._count
        began = time.perf_counter()
        for number in range(count):
            if (wait := began + number / self._rate - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(send())
            flying.add(task)
            task.add_done_callback(flying.discard)
        await asyncio.gather(*flying)
        return count

    async def _ready(self) -> None:
        await self._client.get(f"{self._platform.bid_url}/ready")

    async def _no_bid(self) -> None:
        await self._post(self._dear)

    async def _from_elsewhere(self) -> None:
        await self._post(self._elsewhere)

    async def _bid(self) -> None:
        body = await self._post(self._requests)
        for seat in msgspec.json.decode(body).get("seatbid", ()) if body else ():
            for bid in seat["bid"]:
                self.bids += 1
                self._urls.append(expand(bid["lurl"], _MACROS))

    async def _notice(self) -> None:
        await self._client.get(self._urls.pop())

    async def _post(self, requests: list[Request]) -> bytes:
        request = requests[self._next % len(requests)]
        self._next += 1
        url = f"{self._platform.bid_url}/openrtb2/{request.source.exchange}"
        return (await self._client.post(url, request.body, request.headers)).body


def _row(spent: Reading, idle: Reading, events: float, seconds: float, idle_seconds: float) -> dict[str, float]:
    """Return microseconds and sleeps an event, without what the idle process would have spent in that time."""
    share = seconds / idle_seconds
    main = (spent.main_ns - idle.main_ns * share) / events / 1_000
    others = (spent.others_ns - idle.others_ns * share) / events / 1_000
    return {
        "us": main + others,
        "loop_us": main,
        "threads_us": others,
        "sleeps": (spent.sleeps - idle.sleeps * share) / events,
    }


def _dear(request: Request) -> Request:
    """Return the request with floors that no bid reaches; without compression."""
    payload = dict(request.payload)
    payload["imp"] = [{**imp, "bidfloor": FLOOR_CPM, "pmp": {}} for imp in payload["imp"]]
    headers = {name: value for name, value in request.headers.items() if name != "Content-Encoding"}
    return replace(request, body=msgspec.json.encode(payload), headers=headers, payload=payload)


async def _drive(platform: Platform, options: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    async with Client(ends_tls=platform.ends_tls) as client:
        driver = Driver(platform, client, options.rate, options.seconds)
        await driver.warm_up()
        return [await driver.round() for _ in range(options.rounds)]


def least(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return each kind's cheapest round: what else ran on the machine only ever adds."""
    return {kind: min((table[kind] for table in rounds), key=lambda row: row["us"]) for kind in rounds[0]}


def main() -> int:
    """Start the platform, measure, print."""
    parser = argparse.ArgumentParser(description="What the bidder process costs the processor, by kind of work.")
    parser.add_argument("--rate", type=float, default=250.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, default=MODELS, help="a registry with a champion")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="dsp-bench-") as directory:
        platform = Platform(Path(directory))
        platform.run("dsp", "migrate")
        platform.run("dsp", "load", str(CATALOGUE), "--flight-seconds", str(FLIGHT_SECONDS))
        shutil.copytree(options.models, platform.data_dir / "models", dirs_exist_ok=True)
        try:
            platform.up()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rounds = runner.run(_drive(platform, options))
            platform.check()
            model = platform.metrics().label("dsp_model_info", "version")
        finally:
            platform.down()
    table = least(rounds)
    if options.json:
        print(json.dumps({"rate": options.rate, "model": model, "least": table, "rounds": rounds}, indent=2))
        return 0
    print(f"{options.rate:.0f} events a second, model {model or 'none'}, least of {options.rounds} rounds")
    print(f"{'kind':<22} {'us':>7} {'loop':>7} {'threads':>8} {'sleeps':>7} {'bids':>5}")
    for kind, row in table.items():
        cells = f"{row['us']:>7.0f} {row['loop_us']:>7.0f} {row['threads_us']:>8.0f} {row['sleeps']:>7.1f}"
        print(f"{kind:<22} {cells} {row.get('bids', 0.0):>5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
