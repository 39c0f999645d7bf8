"""The closed loop in one command: bid with the prior, learn from it, swap the model in, bid again, reconcile."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvloop
from rich.console import Console

from dsp.kernel.clock import SystemClock
from dsp.openrtb.profile import load_profiles
from dsp.registry.bundles import resolve
from loadtest import console as terminal
from loadtest import report as reports
from loadtest.client import Client
from loadtest.console import Step, Ticker, View
from loadtest.directory import taken
from loadtest.exchange import Exchange
from loadtest.ledger import Ledger
from loadtest.notifier import Notifier
from loadtest.picture import Curve, Reliability, draw
from loadtest.platform import CATALOGUE, EXCHANGES, LOGS, Metrics, Platform, PlatformError, no_bid_reasons
from loadtest.reconcile import overspent, reconcile
from loadtest.report import Report, Swap
from loadtest.traffic import Traffic
from loadtest.truth import Truth

SAMPLE_SECONDS = 1.0
RAMP_SECONDS = 4.0
SWAP_SECONDS_MAX = 15.0
NOTICES_SECONDS_MAX = 20.0
LEDGER_SECONDS_MAX = 20.0
TRAIN_SECONDS_MAX = 240.0
#: Behind bidder and workers, and not so far that it would starve where others use the machine.
TRAIN_NICE = 10
#: The flights in the catalogue end so long after the demo's last request, as training takes longer on a busy machine.
#: Where it takes longer than that, the last phase ends with the flights.
FLIGHT_MARGIN_SECONDS = 25
#: Share of the requests that come from where nobody advertises: most of what an exchange sends is not for one bidder.
ELSEWHERE = 0.8
#: At 1,000 answers a second, the last of so many comes just within the shortest tmax; with more unanswered, a machine
#: that cannot keep up would be late with all of them.
IN_FLIGHT_MAX = 150
#: People of the demo click and convert within seconds, so there is no need to wait for more.
SETTINGS = {
    "DSP_TRAINING_MATURITY_SECONDS": "6",
    "DSP_WORKERS_TRAINING_FLUSH_MS": "1000",
}
SIDES = {"before": "before: the smoothed prior", "after": "after: the model trained in the demo"}
PRIOR, TRAINING, MODEL = "prior", "training", "model"


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose."""

    data_dir: Path
    seed: int
    rate: float
    phase_seconds: float


@dataclass(slots=True)
class Findings:
    """What was measured on the way, for the report."""

    model_since_ms: int = 0
    model_refused: list[str] = field(default_factory=list)
    swap: Swap | None = None
    swap_at_seconds: float | None = None
    driven_until_ms: int | None = None  # nothing is bought any more, so the plan is compared as of then
    cpu: list[Metrics] = field(default_factory=list)  # at the begin and at the end of the last phase
    last: Metrics = field(default_factory=Metrics)


class Demo:
    """One run. `run` may be called once."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._truth = Truth()
        phase = options.phase_seconds
        self._view = View(
            self._truth,
            [
                Step("set up database, catalogue", 4.0),
                Step("start the platform", 4.0),
                Step("drive: the prior predicts", phase),
                Step("train on what was logged", 12.0),
                Step("swap the model in", 1.0),
                Step("drive: the model predicts", phase),
                Step("let the ledger settle", 5.0),
                Step("reconcile, evaluate", 6.0),
            ],
        )
        self._ticker = Ticker(console, self._view)
        self._curves: dict[int, Curve] = {}
        self._findings = Findings()
        self._started = time.monotonic()
        self._flights_end = 0.0
        self._done = False
        self._nightly: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run the demo; return 0 only if nothing was overspent and nothing lost.

        Raises:
            PlatformError: a part of the platform failed.
            KeyboardInterrupt: somebody asked for the end; everything is stopped by then.
        """
        with taken(self._options.data_dir):
            return self._run()

    def _run(self) -> int:
        platform = Platform(self._options.data_dir, settings=SETTINGS)
        try:
            with terminal.live(self._console, self._view):
                ledger = self._set_up(platform)
                self._view.begin(1)
                platform.up(self._ticker.tick)
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(self._loop(platform, ledger))
                result, models = self._conclude(platform, ledger)
                self._view.finish()
        finally:
            self._stop_nightly()
            platform.down()
        return self._finish(result, models)

    def _set_up(self, platform: Platform) -> Ledger:
        self._view.begin(0)
        platform.run("dsp", "migrate")
        flight_seconds = int(sum(step.seconds for step in self._view.steps[1:6])) + FLIGHT_MARGIN_SECONDS
        self._flights_end = time.monotonic() + flight_seconds
        platform.run("dsp", "load", str(CATALOGUE), "--flight-seconds", str(flight_seconds))
        return Ledger(platform.settings)

    async def _loop(self, platform: Platform, ledger: Ledger) -> None:
        """Drive traffic while the script of the demo goes on beside it."""
        async with Client() as bids, Client(ends_tls=platform.ends_tls) as calls:
            notifier = Notifier(calls, self._truth, self._options.seed)
            traffic = Traffic(self._options.seed, elsewhere=ELSEWHERE)
            exchange = Exchange(
                bids,
                platform.bid_url,
                traffic,
                load_profiles(EXCHANGES),
                self._truth,
                notifier,
                in_flight_max=IN_FLIGHT_MAX,
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch(platform, ledger))
                    group.create_task(exchange.drive(self._options.rate, lambda _: self._done, RAMP_SECONDS))
                    await self._script(platform)
                    self._done, self._findings.driven_until_ms = True, SystemClock().now_ms()
                self._view.begin(6)
                watching = asyncio.create_task(self._watch(platform, ledger, forever=True))
                try:
                    await notifier.settle(NOTICES_SECONDS_MAX)
                    await self._await_ledger(platform, ledger)
                finally:
                    watching.cancel()
                self._findings.last = await asyncio.to_thread(platform.metrics)
            finally:
                await notifier.close()

    async def _script(self, platform: Platform) -> None:
        options, findings = self._options, self._findings
        self._truth.begin(PRIOR)
        self._view.begin(2)
        self._view.model = "smoothed prior"
        await asyncio.sleep(options.phase_seconds)
        self._truth.begin(TRAINING)
        self._view.begin(3)
        async with asyncio.TaskGroup() as group:
            findings.swap = await self._swapped(platform, group.create_task(self._train(platform)))
        self._truth.begin(MODEL)
        step = self._view.begin(5)
        step.note = "" if findings.swap else "no new model"
        findings.model_since_ms = SystemClock().now_ms()
        findings.cpu.append(await asyncio.to_thread(platform.metrics))
        await asyncio.sleep(min(options.phase_seconds, max(self._flights_end - time.monotonic(), SAMPLE_SECONDS)))
        findings.cpu.append(await asyncio.to_thread(platform.metrics))

    async def _train(self, platform: Platform) -> float:
        """Run the nightly training beside the traffic, at low priority; return its seconds."""
        arguments = ("models", "nightly", "--json")
        begun = time.monotonic()
        self._nightly = platform.start(*arguments, nice=TRAIN_NICE)
        while self._nightly.poll() is None:
            if time.monotonic() - begun > TRAIN_SECONDS_MAX:
                raise PlatformError(f"the training took longer than {TRAIN_SECONDS_MAX:.0f} s")
            await asyncio.sleep(0.05)
        self._findings.model_refused = msgspec.json.decode(platform.output(self._nightly, arguments))["reasons"]
        return time.monotonic() - begun

    async def _swapped(self, platform: Platform, training: "asyncio.Task[float]") -> Swap | None:
        """Wait until the bidder says that it uses the champion that training registers, which goes on after that.

        None if there is no champion or it does not come.
        """
        version, trained = None, False
        while version is None and not trained:
            await asyncio.sleep(0.05)
            trained = training.done()  # asked before the registry, so that what was registered last is seen
            version = await asyncio.to_thread(resolve, platform.data_dir / "models", "champion")
        self._view.begin(4)
        begun = time.monotonic()
        while version is not None and time.monotonic() - begun < SWAP_SECONDS_MAX:
            metrics = await asyncio.to_thread(platform.metrics)
            if metrics.label("dsp_model_info", "version") == version:
                now = time.monotonic()
                self._view.model = version
                self._findings.swap_at_seconds = now - self._started
                asked_since = time.perf_counter() - (now - begun) - 1.0
                dropped = sum(at > asked_since for at in self._truth.failures_at)
                return Swap(
                    version=version,
                    seconds=round(now - begun, 3),
                    training_seconds=round(await training, 1),
                    dropped_requests=dropped,
                )
            await asyncio.sleep(0.1)
        return None

    async def _watch(self, platform: Platform, ledger: Ledger, *, forever: bool = False) -> None:
        """Sample the book once a second, and notice when the platform dies."""
        while forever or not self._done:
            platform.check()
            self._sample(await asyncio.to_thread(self._progress, ledger))
            self._ticker.tick()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _progress(self, ledger: Ledger) -> list[terminal.Progress]:
        return ledger.progress(self._findings.driven_until_ms or SystemClock().now_ms())

    def _sample(self, campaigns: list[terminal.Progress]) -> None:
        self._view.campaigns = campaigns
        seconds = time.monotonic() - self._started
        for one in campaigns:
            curve = self._curves.setdefault(one.id, Curve(one.name, one.budget_micros))
            curve.seconds.append(seconds)
            curve.spent_micros.append(one.spent_micros)
            curve.planned_micros.append(one.planned_micros)

    async def _await_ledger(self, platform: Platform, ledger: Ledger) -> None:
        """Wait until the book holds as many transactions as billing notices were acknowledged; not for ever."""
        wanted = len(self._truth.acknowledged(billing=True))
        deadline = time.monotonic() + LEDGER_SECONDS_MAX
        while time.monotonic() < deadline:
            platform.check()
            if len(await asyncio.to_thread(ledger.charges)) >= wanted:
                return
            await asyncio.sleep(0.25)

    def _conclude(self, platform: Platform, ledger: Ledger) -> tuple[Report, dict[str, Any]]:
        self._view.begin(7)
        models = msgspec.json.decode(
            platform.run("models", "evaluate", "--since-ms", str(self._findings.model_since_ms), "--json")
        )
        charges = ledger.charges()
        notices = reconcile(self._truth.notices, charges, ledger.events())
        passed = overspent(ledger.budgets(), charges)
        self._sample(self._progress(ledger))
        spent_out = ledger.spent_out()
        imbalance = ledger.imbalance()
        ledger.close()
        total = self._truth.total()
        over_micros, over = reports.overspend(passed)
        swap = self._findings.swap
        result = Report(
            ok=not (over_micros or notices.lost or total.failed or imbalance or swap is None),
            requests=total.requests,
            bids=total.bids,
            wins=total.wins,
            impressions=total.impressions,
            clicks=total.clicks,
            conversions=total.conversions,
            spend_micros=sum(charge.cost_micros for charge in charges),
            overspend_micros=over_micros,
            overspent=over,
            lost=notices.lost,
            latency_ms=reports.latency(total),
            late=total.late,
            unsent=total.unsent,
            unanswered=total.failed,
            unanswered_by_cause=dict(total.failures),
            status={str(status): count for status, count in sorted(total.statuses.items())},
            response_faults=dict(total.faults),
            cpu_us_per_request=_cpu_us_per_request(self._findings.cpu),
            no_bid_reasons=no_bid_reasons(Metrics(), self._findings.last),
            models=reports.models(models),
            model_refused=self._findings.model_refused,
            model_swap=swap,
            notices=notices,
            notices_never_sent=len(self._truth.never_sent),
            phases=reports.phases(self._truth),
            campaigns=self._view.campaigns,
            line_items_spent_out=spent_out,
            ledger_imbalance_micros=imbalance,
            driver_lag_ms_max=round(total.lag_ms_max, 1),
            seconds=round(time.monotonic() - self._started, 1),
        )
        return result, models

    def _finish(self, result: Report, models: dict[str, Any]) -> int:
        directory = self._options.data_dir
        paths = {"report": directory / "report.json", "picture": directory / "report.png", "logs": directory / LOGS}
        reports.write(paths["report"], result)
        sides = [Reliability.of(label, models[side]) for side, label in SIDES.items() if models[side]]
        draw(paths["picture"], list(self._curves.values()), sides, self._findings.swap_at_seconds)
        reports.show(self._console, result, paths)
        return 0 if result.ok else 1

    def _stop_nightly(self) -> None:
        if self._nightly is not None and self._nightly.poll() is None:
            self._nightly.terminate()
            self._nightly.wait()


def main(options: Options) -> int:
    """Run the demo for a person: readable messages, and a clean end on Ctrl-C."""
    console = Console()
    with _interruptible():
        try:
            return Demo(options, console).run()
        except KeyboardInterrupt:
            console.print("\nStopped; the platform is down.")
            return 130
        except (PlatformError, ExceptionGroup) as fault:
            console.print("\n[bold red]The demo failed.[/]")
            console.print(_reason(fault), highlight=False, markup=False, soft_wrap=True)
            return 1


def _cpu_us_per_request(scrapes: list[Metrics]) -> float:
    """Return the bidder's CPU time between two scrapes over the requests between them, microseconds."""
    if len(scrapes) != 2:
        return 0.0
    seconds, requests = (
        scrapes[1].total(name) - scrapes[0].total(name)
        for name in ("process_cpu_seconds_total", "dsp_bid_requests_total")
    )
    return round(seconds / requests * 1_000_000, 1) if requests else 0.0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(fault: BaseException) -> str:
    """Return a fault in words: the first of a group that says something about the platform."""
    if isinstance(fault, BaseExceptionGroup):
        return _reason(fault.exceptions[0])
    return str(fault) if isinstance(fault, PlatformError) else f"{type(fault).__name__}: {fault}"
