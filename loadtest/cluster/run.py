"""`python -m loadtest cluster`: two bidders and two ledger workers on real servers under steady load."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from dsp.kernel.money import Micros
from loadtest.cluster.drive import Drive, driving
from loadtest.cluster.servers import on_servers
from loadtest.traffic import Traffic
from loadtest.truth import percentiles

SETTLE_SECONDS = 30.0
_FLIGHT_SECONDS = 3_600


class Report(msgspec.Struct, kw_only=True):
    """What was measured. `events` are notices of all kinds that were acknowledged while the load lasted."""

    seconds: float
    requests: int
    bids: int
    wins: int
    late: int
    unanswered: int
    latency_ms: dict[str, float]  # as the exchange sees it
    events: int
    events_per_second: float
    lag_ms: dict[str, float]  # from a notice's acknowledgement to its transaction in the book
    lost: int
    duplicated: int
    overspend_micros: Micros
    #: What the book says is owed, less what the exchange's own account says.
    book_difference_micros: Micros
    ledger_imbalance_micros: Micros
    examples: list[str]

    @property
    def ok(self) -> bool:
        """Return whether no money and no notice was lost."""
        wrong = self.lost or self.overspend_micros or self.book_difference_micros or self.ledger_imbalance_micros
        return self.wins > 0 and not wrong


async def measure(folder: Path, settings: Mapping[str, str], seconds: float, rate: float, traffic: Traffic) -> Report:
    """Drive a platform with these settings and hold its book against the exchange's account."""
    async with driving(folder, settings, rate, traffic, _FLIGHT_SECONDS) as drive:
        drive.truth.begin("load")
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        events = sum(began <= sent.acknowledged_at <= began + took for sent in drive.truth.notices.values())
        await drive.settle(SETTLE_SECONDS)
        return await asyncio.to_thread(_conclude, drive, took, events)


def _conclude(drive: Drive, seconds: float, events: int) -> Report:
    tally, account = drive.truth.phases["load"], drive.account()
    lags = [1_000 * lag for lag in drive.lags_seconds()]
    return Report(
        seconds=round(seconds, 1),
        requests=tally.requests,
        bids=tally.bids,
        wins=tally.wins,
        late=tally.late,
        unanswered=tally.failed,
        latency_ms=percentiles(tally.latencies_ms, "p50", "p99", digits=1),
        events=events,
        events_per_second=round(events / seconds, 1),
        lag_ms=percentiles(lags, "p50", "p99", digits=0),
        lost=account.notices.lost - account.notices.duplicated,
        duplicated=account.notices.duplicated,
        overspend_micros=account.overspend_micros,
        book_difference_micros=account.difference_micros,
        ledger_imbalance_micros=account.imbalance_micros,
        examples=account.notices.examples,
    )


def main(seconds: float, rate: float, seed: int, as_json: bool) -> int:
    """Run for a person or a script; 0 only if no money and no notice was lost."""
    console = Console(stderr=as_json)
    report = on_servers(lambda folder, running: measure(folder, running.settings, seconds, rate, Traffic(seed)))
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(console, report)
    return 0 if report.ok else 1


def _show(console: Console, report: Report) -> None:
    table = Table(show_header=False, box=None)
    rows = {
        "requests": f"{report.requests:,} in {report.seconds:.0f} s; {report.bids:,} bids, {report.wins:,} wins",
        "answers": f"p50 {report.latency_ms['p50']} ms, p99 {report.latency_ms['p99']} ms; "
        f"{report.late} late, {report.unanswered} without any",
        "events through the ledger": f"{report.events:,}, {report.events_per_second:.0f} a second",
        "from notice to book": f"p50 {report.lag_ms['p50']:.0f} ms, p99 {report.lag_ms['p99']:.0f} ms",
        "lost, duplicated": f"{report.lost}, {report.duplicated}",
        "overspent": f"{report.overspend_micros} micros",
        "book against the exchange's account": f"{report.book_difference_micros} micros",
    }
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table, *report.examples, sep="\n")
