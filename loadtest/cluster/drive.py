"""Drives the platform on real servers: steady traffic, the exchange's own account of it, and the book's beside it."""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dsp.kernel.errors import UnavailableError
from dsp.kernel.money import Micros
from dsp.openrtb.profile import load_profiles
from dsp.supervise import STATUS_FILE
from loadtest.client import Client
from loadtest.exchange import Exchange
from loadtest.ledger import Ledger
from loadtest.notifier import Notifier
from loadtest.platform import CATALOGUE, EXCHANGES, Platform, PlatformError
from loadtest.reconcile import Reconciliation, overspent, reconcile
from loadtest.traffic import Traffic
from loadtest.truth import Truth

#: How often the book is counted: so exact is what is said of its lag.
COUNT_SECONDS = 0.1
START_SECONDS = 180.0
RAMP_SECONDS = 5.0


class Count(NamedTuple):
    """How many transactions the book held at one moment (seconds, monotonic)."""

    at: float
    transactions: int


class Account(NamedTuple):
    """What the book says once everything has settled, held against what the exchange knows."""

    notices: Reconciliation
    overspend_micros: Micros
    #: What the book says is owed, less what the exchange's own account says.
    difference_micros: Micros
    imbalance_micros: Micros


class Drive:
    """A platform under load, and what is known of it."""

    def __init__(self, platform: Platform, ledger: Ledger, truth: Truth, notifier: Notifier) -> None:
        self.platform = platform
        self.ledger = ledger
        self.truth = truth
        self.counts: list[Count] = []
        self._notifier = notifier
        self._stopped = False
        self._closed = False
        self._traffic: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None

    def start(self, exchange: Exchange, rate: float) -> None:
        """Begin to send requests, so many a second, and to count the book."""
        traffic = exchange.drive(rate, lambda _: self._stopped, RAMP_SECONDS)
        self._traffic = asyncio.create_task(traffic)
        self._counting = asyncio.create_task(self._count())

    async def bidding(self) -> None:
        """Wait for the first bid: what is ready still waits until a ledger worker tells the lease store what is spent.

        Raises:
            PlatformError: nothing was bid on in time.
        """
        await _until(self.platform, lambda: self.truth.tally.responses > 0, "nothing was bid on")

    async def settle(self, timeout_seconds: float) -> None:
        """Send no more requests; wait for the notices of those that were sent, and for the book to have them."""
        self._stopped = True
        if self._traffic is not None:
            await self._traffic
        await self._notifier.settle(timeout_seconds)
        await self.caught_up(timeout_seconds)

    async def close(self) -> None:
        """End everything that is under way."""
        self._stopped = self._closed = True
        tasks = [task for task in (self._traffic, self._counting) if task is not None]
        if self._traffic is not None:
            self._traffic.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._notifier.close()

    def acknowledged_at(self) -> list[float]:
        """Return when each billing notice was first acknowledged, ascending."""
        return sorted(sent.acknowledged_at for sent in self.truth.acknowledged(billing=True).values())

    def lags_seconds(self) -> list[float]:
        """Return how long the book took to have as many transactions as notices had been acknowledged, one a notice."""
        totals = [count.transactions for count in self.counts]
        found = []
        for number, at in enumerate(self.acknowledged_at(), start=1):
            place = bisect_left(totals, number)
            if place < len(totals):
                found.append(max(0.0, self.counts[place].at - at))
        return found

    def account(self) -> Account:
        """Hold the whole book against the exchange's own account."""
        charges = self.ledger.charges()
        owed = sum(sent.cost_micros for sent in self.truth.notices.values() if sent.acknowledged)
        return Account(
            notices=reconcile(self.truth.notices, charges, self.ledger.events()),
            overspend_micros=sum(one.over_micros for one in overspent(self.ledger.budgets(), charges)),
            difference_micros=sum(charge.cost_micros for charge in charges) - owed,
            imbalance_micros=self.ledger.imbalance(),
        )

    async def caught_up(self, timeout_seconds: float) -> bool:
        """Wait until the book has as many transactions as notices are acknowledged now; False if it has not in time."""
        wanted, give_up_at = len(self.acknowledged_at()), time.monotonic() + timeout_seconds
        while time.monotonic() < give_up_at:
            if self._counting is not None and self._counting.done():
                self._counting.result()  # what ended it: without a count nothing is ever caught up with
            if self.counts and self.counts[-1].transactions >= wanted:
                return True
            await asyncio.sleep(COUNT_SECONDS)
        return False

    async def _count(self) -> None:
        """Count the book's transactions; while its database is away there is nothing to count.

        It is not cancelled: the thread would go on and keep a connection that `Ledger.close` then does not find.
        """
        while not self._closed:
            with suppress(UnavailableError):
                transactions = await asyncio.to_thread(self.ledger.transactions)
                self.counts.append(Count(time.perf_counter(), transactions))
            await asyncio.sleep(COUNT_SECONDS)


def processes(platform: Platform) -> dict[str, int]:
    """Return the ids of the platform's processes by name; of one that is not ready 0."""
    try:
        status = json.loads((platform.data_dir / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: child["pid"] if child["ready"] else 0 for name, child in status["children"].items()}


@asynccontextmanager
async def driving(
    folder: Path, settings: Mapping[str, str], rate: float, traffic: Traffic, flight_seconds: int
) -> AsyncIterator[Drive]:
    """Set the platform up, drive it steadily with this traffic, and stop everything at the end.

    Raises:
        PlatformError: a part did not start.
    """
    platform = Platform(folder, settings=settings)
    try:
        await asyncio.to_thread(platform.run, "dsp", "migrate")
        await asyncio.to_thread(platform.run, "dsp", "load", str(CATALOGUE), "--flight-seconds", str(flight_seconds))
        await asyncio.to_thread(platform.up)
        await _until(platform, lambda: _all_ready(platform), "not all processes were ready")
        ledger = Ledger(platform.settings)
        truth = Truth()
        async with Client() as bids, Client(ends_tls=platform.ends_tls) as calls:
            notifier = Notifier(calls, truth, traffic.seed)
            exchange = Exchange(bids, platform.bid_url, traffic, load_profiles(EXCHANGES), truth, notifier)
            drive = Drive(platform, ledger, truth, notifier)
            drive.start(exchange, rate)
            try:
                await drive.bidding()
                await asyncio.sleep(RAMP_SECONDS)
                yield drive
            finally:
                await drive.close()
                ledger.close()
    finally:
        await asyncio.to_thread(platform.down)


def _all_ready(platform: Platform) -> bool:
    found = processes(platform)
    return bool(found) and all(found.values())


async def _until(platform: Platform, reached: Callable[[], bool], missed: str) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not reached():
        platform.check()
        if time.monotonic() > give_up_at:
            raise PlatformError(f"{missed} in time\n{platform.tail('dsp-up.log')}")
        await asyncio.sleep(0.1)
