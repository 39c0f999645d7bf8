"""`python -m loadtest drill`: breaks one part of a running platform after the other, and says what it cost.

The traffic never stops. What a drill counts is what was asked while its part was broken and until all was well again:
the book had every notice acknowledged, and bids were made as before.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from dsp.kernel.money import Micros
from loadtest.cluster.drive import Drive, driving
from loadtest.cluster.faults import FAULTS, Fault, Scene
from loadtest.cluster.servers import Servers, on_servers
from loadtest.platform import PlatformError
from loadtest.reconcile import Charge, Reconciliation, overspent, reconcile
from loadtest.traffic import Traffic
from loadtest.truth import NoticeKey, Sent

BROKERS = 3
#: Before each drill, to see how many bids are usual.
CALM_SECONDS = 6.0
RUN_DRY_SECONDS_MAX = 100.0
SETTLE_SECONDS = 60.0
_FLIGHT_SECONDS = 7_200
_WINDOW_SECONDS = 2.0
_COLUMNS = 120  # where there is no terminal to ask
#: Bids are back when there are so many of the usual ones in a window.
_USUAL_SHARE = 0.6
_DRY_SHARE = 0.05


class Drill(msgspec.Struct, kw_only=True):
    """One fault, and what it cost. `seconds_to_recover` are counted from its mending; None: it did not recover."""

    fault: str
    requests: int
    late: int
    unanswered: int  # connections that broke; an exchange counts them as no bids
    driver_lag_ms_max: float  # how late the driver itself sent a request; as long may answers have waited for it
    lost: int  # acknowledged, and not in the book
    duplicated: int
    overspent_micros: Micros
    seconds_to_recover: float | None
    examples: list[str]

    @property
    def ok(self) -> bool:
        """Return whether no money was lost and the platform recovered by itself."""
        return not (self.lost or self.duplicated or self.overspent_micros) and self.seconds_to_recover is not None


class Report(msgspec.Struct, kw_only=True):
    """All drills, and what the books say once everything has settled; without money nothing is proven."""

    ok: bool
    drills: list[Drill]
    requests: int
    billing_acknowledged: int
    lost: int
    duplicated: int
    overspent_micros: Micros
    late_micros: Micros  # of what was acknowledged, what the book charges to no budget
    book_difference_micros: Micros
    ledger_imbalance_micros: Micros
    examples: list[str]


async def run(
    folder: Path, running: Servers, faults: Sequence[Fault], rate: float, traffic: Traffic, say: Console
) -> Report:
    """Drill all faults, one after the other, on one platform."""
    async with driving(folder, running.settings, rate, traffic, _FLIGHT_SECONDS) as drive:
        drills = []
        for fault in faults:
            say.print(f"  {fault.name} ...", highlight=False)
            drills.append(await _drill(drive, running, fault))
        await drive.settle(SETTLE_SECONDS)
        return await asyncio.to_thread(_conclude, drive, drills)


async def _drill(drive: Drive, running: Servers, fault: Fault) -> Drill:
    truth, scene = drive.truth, Scene(drive, running)
    calm = truth.begin(f"before: {fault.name}")
    await asyncio.sleep(CALM_SECONDS)
    usual = calm.responses / CALM_SECONDS
    if not usual:
        raise PlatformError(f"nothing was bid on before: {fault.name}")
    tally = truth.begin(fault.name)
    await asyncio.to_thread(fault.act, scene)
    await asyncio.sleep(fault.hold_seconds)
    await asyncio.to_thread(fault.mend, scene)
    mended = time.monotonic()
    if fault.run_dry:
        await _run_dry(drive, usual)
    recovered = await _recovered(drive, usual, fault.recovery_seconds_max)
    took = time.monotonic() - mended if recovered else None
    truth.begin("between")
    # What was acknowledged by now is to be in the book soon; what comes later is another drill's.
    acknowledged = truth.acknowledged(billing=True)
    found, charges = await _settled(drive, acknowledged)
    return Drill(
        fault=fault.name,
        requests=tally.requests,
        late=tally.late,
        unanswered=tally.failed,
        driver_lag_ms_max=round(tally.lag_ms_max, 1),
        lost=found.missing + found.wrong_cost,
        duplicated=found.duplicated,
        overspent_micros=sum(one.over_micros for one in overspent(drive.ledger.budgets(), charges)),
        seconds_to_recover=None if took is None else round(took, 1),
        examples=[each for each in found.examples if not each.startswith("unexplained")],
    )


async def _settled(drive: Drive, acknowledged: Mapping[NoticeKey, Sent]) -> tuple[Reconciliation, list[Charge]]:
    """Hold the book against these notices once it has them all, or will not have them any more.

    Their number does not tell: the book also has notices whose acknowledgement a dead bidder never sent.
    """
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while True:
        charges = await asyncio.to_thread(drive.ledger.charges)
        found = reconcile(acknowledged, charges, acknowledged)
        if not found.missing or time.monotonic() > give_up_at:
            return found, charges
        await asyncio.sleep(_WINDOW_SECONDS)


async def _recovered(drive: Drive, usual: float, seconds_max: float) -> bool:
    """Wait until the book has what was acknowledged and bids are made as often as before."""
    give_up_at = time.monotonic() + seconds_max
    while time.monotonic() < give_up_at:
        if await _rate(drive) >= _USUAL_SHARE * usual and await drive.caught_up(_WINDOW_SECONDS):
            return True
    return False


async def _run_dry(drive: Drive, usual: float) -> None:
    give_up_at = time.monotonic() + RUN_DRY_SECONDS_MAX
    while time.monotonic() < give_up_at and await _rate(drive) > _DRY_SHARE * usual:
        pass


async def _rate(drive: Drive) -> float:
    """Return how many requests a second are answered with a bid just now."""
    before, at = drive.truth.tally.responses, time.monotonic()
    await asyncio.sleep(_WINDOW_SECONDS)
    return (drive.truth.tally.responses - before) / (time.monotonic() - at)


def _conclude(drive: Drive, drills: list[Drill]) -> Report:
    found, over, difference, imbalance = drive.account()
    return Report(
        ok=all(drill.ok for drill in drills)
        and found.billing_acknowledged > 0
        and not (found.lost or over or difference or imbalance),
        drills=drills,
        requests=drive.truth.total().requests,
        billing_acknowledged=found.billing_acknowledged,
        lost=found.lost - found.duplicated,
        duplicated=found.duplicated,
        overspent_micros=over,
        late_micros=sum(day.late_micros for day in drive.ledger.results()),
        book_difference_micros=difference,
        ledger_imbalance_micros=imbalance,
        examples=found.examples,
    )


def main(names: Sequence[str], rate: float, seed: int, as_json: bool) -> int:
    """Drill the faults whose names hold one of `names`, or all; 0 only if all went well."""
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else _COLUMNS)
    chosen = [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]
    if not chosen:
        console.print("no fault is called so; there are:", *(fault.name for fault in FAULTS), sep="\n  ")
        return 2
    console.print("starting Kafka, Valkey, PostgreSQL and the platform ...")
    report = on_servers(lambda folder, running: run(folder, running, chosen, rate, Traffic(seed), console), BROKERS)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(console, report)
    return 0 if report.ok else 1


def _show(console: Console, report: Report) -> None:
    table = Table()
    table.add_column("fault", no_wrap=True)
    for title in (
        "requests", "late", "broken\noff", "driver\nbehind", "lost", "dupli-\ncated", "over-\nspent",
        "seconds to\nrecover",
    ):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for drill in report.drills:
        took = "never" if drill.seconds_to_recover is None else f"{drill.seconds_to_recover:.0f}"
        answers = (
            f"{drill.requests:,}",
            f"{drill.late:,}",
            f"{drill.unanswered:,}",
            f"{drill.driver_lag_ms_max:.0f} ms",
        )
        money = (f"{drill.lost:,}", f"{drill.duplicated:,}", f"{drill.overspent_micros:,}")
        table.add_row(drill.fault, *answers, *money, took)
    console.print(table)
    console.print(
        f"In all {report.requests:,} requests and {report.billing_acknowledged:,} billing notices acknowledged: "
        f"{report.lost} lost, {report.duplicated} duplicated, {report.overspent_micros} micros overspent, "
        f"{report.late_micros} micros late and charged to no budget; "
        f"the book differs from the exchange's account by {report.book_difference_micros} micros.",
        *report.examples,
        sep="\n",
    )
