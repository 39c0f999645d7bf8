"""The report of a demo: what goes into report.json, and how a person reads it on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dsp.kernel.money import Micros, units_from_micros
from loadtest.console import Progress, campaigns, panel, side_by_side
from loadtest.reconcile import Overspent, Reconciliation
from loadtest.truth import Tally, Truth, percentiles
from models.evaluation.report import or_dash

_REASONS_SHOWN = 9


class Latency(msgspec.Struct, kw_only=True):
    """Milliseconds from sending a request to its whole answer, as the exchange sees it."""

    p50: float
    p99: float
    max: float


class Phase(msgspec.Struct, kw_only=True):
    """One stretch of the demo."""

    requests: int
    bid_rate: float
    win_rate: float
    clicks: int
    click_rate: float
    latency_ms: Latency


class Swap(msgspec.Struct, kw_only=True):
    """How the new model came into the running bidder: seconds from its registration to its first use."""

    version: str
    seconds: float
    training_seconds: float
    dropped_requests: int


class Report(msgspec.Struct, kw_only=True):
    """What `var/demo/report.json` holds."""

    ok: bool
    requests: int
    bids: int
    wins: int
    impressions: int
    clicks: int
    conversions: int
    spend_micros: Micros
    overspend_micros: Micros
    overspent: list[dict[str, Any]]
    lost: int
    latency_ms: Latency
    late: int
    unsent: int
    unanswered: int
    unanswered_by_cause: dict[str, int]
    status: dict[str, int]
    response_faults: dict[str, int]
    cpu_us_per_request: float
    no_bid_reasons: dict[str, int]
    models: dict[str, Any]
    model_refused: list[str]  # why the training registered none
    model_swap: Swap | None
    notices: Reconciliation
    notices_never_sent: int
    phases: dict[str, Phase]
    campaigns: list[Progress]
    line_items_spent_out: int
    ledger_imbalance_micros: Micros
    driver_lag_ms_max: float
    seconds: float


def latency(tally: Tally) -> Latency:
    """Return the latencies of one stretch."""
    longest = round(max(tally.latencies_ms, default=0.0), 2)
    return Latency(**percentiles(tally.latencies_ms, "p50", "p99", digits=2), max=longest)


def phases(truth: Truth) -> dict[str, Phase]:
    """Return the stretches that had traffic."""
    return {
        name: Phase(
            requests=tally.requests,
            bid_rate=round(tally.bid_rate, 4),
            win_rate=round(tally.win_rate, 4),
            clicks=tally.clicks,
            click_rate=round(tally.clicks / tally.impressions, 4) if tally.impressions else 0.0,
            latency_ms=latency(tally),
        )
        for name, tally in truth.phases.items()
        if tally.requests
    }


def models(evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `python -m models evaluate --json` found: the prior before, the model after, on the same rows."""
    return {name: evaluated[name] for name in ("before", "after", "rows", "clicks", "conversions", "in_sample")}


def overspend(found: Sequence[Overspent]) -> tuple[Micros, list[dict[str, Any]]]:
    """Return the sum of what was overspent, and each case."""
    return sum(one.over_micros for one in found), [one._asdict() for one in found]


def write(path: Path, report: Report) -> None:
    """Write report.json."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def show(console: Console, report: Report, paths: Mapping[str, Path]) -> None:
    """Print the report."""
    good = report.ok
    verdict = Text("Money is right and nothing was lost." if good else "Something is wrong:")
    verdict.stylize("bold green" if good else "bold red")
    console.print()
    console.rule(Text("The closed loop: bid, win, bill, click, learn", style="bold"))
    console.print(side_by_side(_funnel(report), _service(report)))
    console.print(side_by_side(_money(report), _models(report)))
    console.print(panel("spend against plan, as of the last request", campaigns(report.campaigns)))
    console.print(panel("why there was no bid", _reasons(report.no_bid_reasons)))
    console.print(verdict)
    for fault in problems(report):
        console.print(Text(f"  ✗ {fault}", style="yellow" if good else "red"))
    for name, path in paths.items():
        console.print(f"  {name:8} {path}", highlight=False, soft_wrap=True)


def problems(report: Report) -> list[str]:
    """Return what a person should look at, in words; any of the money or notice kind makes the demo fail."""
    found = [f"{one['kind']} {one['name']!r} overspent {one['over_micros']} micros" for one in report.overspent]
    found += report.notices.examples
    if report.unanswered:
        found.append(f"{report.unanswered} requests got no answer: {report.unanswered_by_cause}")
    if report.model_swap is None:
        found.append(f"no model was swapped in: {'; '.join(report.model_refused) or 'the bidder did not take it'}")
    elif not report.models["rows"]:
        seconds = report.model_swap.training_seconds
        found.append(f"no later traffic to compare the models on: training took {seconds:.0f} s, and the flights ended")
    if report.ledger_imbalance_micros:
        found.append(f"the book is out of balance by {report.ledger_imbalance_micros} micros")
    if report.response_faults:
        found.append(f"bids that broke a rule: {report.response_faults}")
    refused = {status: count for status, count in report.status.items() if status not in ("200", "204")}
    if refused:
        found.append(f"requests answered with neither a bid nor a no-bid, by status: {refused}")
    if report.late:
        found.append(f"answers that came after tmax: {report.late}")
    if report.unsent:
        found.append(f"requests that were not sent, as this machine was behind with those before: {report.unsent}")
    return found


def _figures(title: str, rows: Sequence[tuple[str, str | Text]]) -> Panel:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="grey62")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    return panel(title, table)


def _funnel(report: Report) -> Panel:
    def share(part: int, whole: int) -> str:
        return f"{part:,}  ({part / whole:.1%})" if whole else f"{part:,}"

    return _figures(
        "from request to conversion",
        [
            ("requests", f"{report.requests:,}"),
            ("bids", share(report.bids, report.requests)),
            ("wins", share(report.wins, report.bids)),
            ("impressions", share(report.impressions, report.wins)),
            ("clicks", share(report.clicks, report.impressions)),
            ("conversions", share(report.conversions, report.clicks)),
        ],
    )


def _service(report: Report) -> Panel:
    swap = report.model_swap
    return _figures(
        "service",
        [
            ("latency p50 / p99", f"{report.latency_ms.p50:.1f} / {report.latency_ms.p99:.1f} ms"),
            ("late answers", _zero(report.late)),
            ("unanswered", _zero(report.unanswered)),
            ("bidder CPU, request", f"{report.cpu_us_per_request:,.0f} µs"),
            ("model swap", f"{swap.seconds:.2f} s" if swap else Text("none", style="red")),
            ("dropped in swap", _zero(swap.dropped_requests) if swap else "-"),
        ],
    )


def _money(report: Report) -> Panel:
    notices = report.notices
    return _figures(
        "money",
        [
            ("spent", f"${units_from_micros(report.spend_micros):,.4f}"),
            ("overspent", _zero(report.overspend_micros, " micros")),
            ("billed and acknowledged", f"{notices.billing_acknowledged:,}"),
            ("booked once, right cost", _all(notices)),
            ("other notices, all logged", f"{notices.other_acknowledged - notices.events_missing:,}"),
            ("lost or wrong", _zero(notices.lost)),
            ("line items at their budget", f"{report.line_items_spent_out:,}"),
        ],
    )


def _models(report: Report) -> Panel:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="grey62")
    for _ in range(2):
        table.add_column(justify="right")
    before, after = report.models.get("before") or {}, report.models.get("after") or {}
    table.add_row("on later traffic", Text("before", style="grey62"), Text("after", style="grey62"))
    table.add_row("predicted by", str(before.get("name", "-")), "model" if after else "-")
    for label, name, form in (
        ("log loss", "log_loss", ".4f"),
        ("AUC", "auc", ".3f"),
        ("forecast / clicks", "pcoc", ".2f"),
    ):
        table.add_row(label, *(or_dash(side.get(name), form) for side in (before, after)))
    table.add_row("impressions", "", f"{report.models.get('rows', 0):,}")
    table.add_row("clicks", "", f"{report.models.get('clicks', 0):,}")
    trained = f"{report.model_swap.training_seconds:.1f} s" if report.model_swap else "-"
    table.add_row("trained in", "", trained)
    return panel("learning", table)


def _zero(count: int, unit: str = "") -> Text:
    return Text(f"{count:,}{unit}", style="green" if count == 0 else "bold red")


def _all(notices: Reconciliation) -> Text:
    right = notices.billing_acknowledged - notices.missing - notices.wrong_cost - notices.duplicated
    return Text(f"{right:,}", style="green" if right == notices.billing_acknowledged else "bold red")


def _reasons(reasons: Mapping[str, int]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    whole = max(reasons.values(), default=1)
    for reason, count in list(reasons.items())[:_REASONS_SHOWN]:
        table.add_row(
            reason.replace("_", " "), f"{count:,}", Text("█" * max(1, round(30 * count / whole)), style="cyan")
        )
    return table
