"""The live terminal of the demo: what happens now, how far it is, and each campaign's spend against its plan."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dsp.kernel.money import Micros, units_from_micros
from loadtest.truth import RECENT_SECONDS, Truth, percentile

_BAR_CHARS = 24
#: Below these widths, two panels stand one below the other, and campaigns' names need the room of their bars.
_PAIR_CHARS_MIN, _BAR_TABLE_CHARS_MIN = 80, 66
_LINE_SECONDS = 5.0  # between lines where the screen cannot be redrawn


class Progress(msgspec.Struct, frozen=True):
    """One campaign's money at one moment."""

    id: int
    name: str
    spent_micros: Micros
    planned_micros: Micros
    budget_micros: Micros  # of the day or in total, whichever is smaller; 0 means none


@dataclass(slots=True)
class Step:
    """One step of the demo."""

    title: str
    seconds: float  # how long it usually takes
    started: float | None = None
    ended: float | None = None
    note: str = ""


@dataclass(slots=True)
class View:
    """What the terminal shows; the demo writes it, nobody else."""

    truth: Truth
    steps: list[Step]
    campaigns: list[Progress] = field(default_factory=list)
    model: str = "-"

    def begin(self, number: int) -> Step:
        """End the steps before and begin this one."""
        now = time.monotonic()
        for step in self.steps[:number]:
            step.started = step.started or now
            step.ended = step.ended or now
        self.steps[number].started = now
        return self.steps[number]

    def finish(self) -> None:
        """End the last step."""
        now = time.monotonic()
        for step in self.steps:
            if step.started is not None and step.ended is None:
                step.ended = now

    def left_seconds(self) -> float:
        """Return about how long the demo will still take."""
        now = time.monotonic()
        left = 0.0
        for step in self.steps:
            if step.started is None:
                left += step.seconds
            elif step.ended is None:
                left += max(0.0, step.seconds - (now - step.started))
        return left


def render(view: View) -> RenderableType:
    """Return the whole screen."""
    top = side_by_side(panel("steps", _steps(view)), panel("traffic", _numbers(view)))
    return Group(top, panel("spend against plan", campaigns(view.campaigns)))


def panel(title: str, shown: RenderableType) -> Panel:
    """Return something in a frame."""
    return Panel(shown, title=title, title_align="left", border_style="grey50")


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What depends on how many characters a line has."""

    make: Callable[[int], RenderableType]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.make(options.max_width)


def side_by_side(left: RenderableType, right: RenderableType) -> RenderableType:
    """Return two things, half of the width each; one below the other where that is too little."""
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(left, right)
    return _Fitted(lambda width: grid if width >= _PAIR_CHARS_MIN else Group(left, right))


def _steps(view: View) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="grey62")
    now = time.monotonic()
    for step in view.steps:
        if step.started is None:
            table.add_row("·", Text(step.title, style="grey50"), "", "")
        elif step.ended is None:
            spent = f"{now - step.started:.0f} s"
            table.add_row(Text("▸", style="bold cyan"), Text(step.title, style="bold"), spent, step.note)
        else:
            table.add_row(Text("✓", style="green"), step.title, f"{step.ended - step.started:.1f} s", step.note)
    table.add_row("", "", "", "")
    table.add_row("", Text("time left", style="bold"), Text(f"{view.left_seconds():.0f} s", style="bold"), "")
    return table


def _numbers(view: View) -> RenderableType:
    truth = view.truth
    recent = [answer.latency_ms for answer in truth.recent]
    tally, total = truth.tally, truth.total()
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(2):
        table.add_column(style="grey62", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    rows = [
        ("req/s", f"{_rate(truth):,.0f}", "requests", f"{total.requests:,}"),
        ("bid rate", f"{tally.bid_rate:.1%}", "bids", f"{total.bids:,}"),
        ("win rate", f"{tally.win_rate:.1%}", "wins", f"{total.wins:,}"),
        ("p50", f"{percentile(recent, 0.5):.1f} ms", "clicks", f"{total.clicks:,}"),
        ("p99", f"{percentile(recent, 0.99):.1f} ms", "converted", f"{total.conversions:,}"),
        ("late", f"{total.late:,}", "failed", f"{total.failed:,}"),
    ]
    for row in rows:
        table.add_row(*row)
    model = Text.assemble(("model  ", "grey62"), (view.model, "cyan"), no_wrap=True, overflow="ellipsis")
    return Group(table, "", model)


def _rate(truth: Truth) -> float:
    if len(truth.recent) < 2:
        return 0.0
    span = min(RECENT_SECONDS, truth.recent[-1].at - truth.recent[0].at)
    return len(truth.recent) / span if span > 0 else 0.0


def campaigns(shown: Sequence[Progress]) -> RenderableType:
    """Return the table of campaigns: their money and how it is on plan."""
    return _Fitted(lambda width: _campaigns(shown, bars=width >= _BAR_TABLE_CHARS_MIN))


def _campaigns(shown: Sequence[Progress], *, bars: bool) -> RenderableType:
    table = Table(box=None, expand=True, padding=(0, 1))
    table.add_column("campaign", ratio=3, no_wrap=True)
    table.add_column("spent", justify="right")
    table.add_column("plan", justify="right")
    table.add_column("budget", justify="right")
    if bars:
        table.add_column("of budget  (┃ plan)", width=_BAR_CHARS)
    table.add_column("on plan", justify="right")
    for one in shown:
        ratio = one.spent_micros / one.planned_micros if one.planned_micros else 0.0
        style = "green" if 0.8 <= ratio <= 1.2 else "yellow"
        budget = f"{units_from_micros(one.budget_micros):,.2f}" if one.budget_micros else "-"
        table.add_row(
            one.name,
            f"{units_from_micros(one.spent_micros):,.2f}",
            f"{units_from_micros(one.planned_micros):,.2f}",
            budget,
            *([bar(one)] if bars else ()),
            Text(f"{ratio:.0%}" if one.planned_micros else "-", style=style),
        )
    if not shown:
        table.add_row(Text("nothing spent yet", style="grey50"))
    return table


def bar(progress: Progress) -> Text:
    """Return a bar of the spend with a mark where the plan wants it to be."""
    whole = max(progress.budget_micros, progress.planned_micros, progress.spent_micros, 1)
    filled = round(_BAR_CHARS * progress.spent_micros / whole)
    mark = min(_BAR_CHARS - 1, round(_BAR_CHARS * progress.planned_micros / whole))
    text = Text()
    for place in range(_BAR_CHARS):
        if place == mark:
            text.append("┃", style="bold white")
        else:
            text.append("█" if place < filled else "░", style="cyan" if place < filled else "grey30")
    return text


def _redrawn(console: Console) -> bool:
    """Tell whether what is printed can be overwritten: neither in a file nor on a terminal that says it is dumb."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def live(console: Console, view: View) -> Iterator[None]:
    """Show the view until the block ends, where the screen can be redrawn."""
    if not _redrawn(console):
        yield
        return
    with Live(get_renderable=lambda: render(view), console=console, refresh_per_second=4, transient=True):
        yield


class Ticker:
    """Where the screen cannot be redrawn, says in plain lines now and then how it goes."""

    def __init__(self, console: Console, view: View) -> None:
        self._console = console
        self._view = view
        self._last = 0.0

    def tick(self) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if _redrawn(self._console) or now - self._last < _LINE_SECONDS:
            return
        self._last = now
        view, truth = self._view, self._view.truth
        step = next((step.title for step in view.steps if step.started and step.ended is None), "")
        recent = [answer.latency_ms for answer in truth.recent]
        spent = sum(one.spent_micros for one in view.campaigns)
        planned = sum(one.planned_micros for one in view.campaigns)
        self._console.print(
            f"{step}: {_rate(truth):.0f} requests/s, bid rate {truth.tally.bid_rate:.0%}, "
            f"win rate {truth.tally.win_rate:.0%}, spent {units_from_micros(spent):.2f} of "
            f"{units_from_micros(planned):.2f} planned, p50 {percentile(recent, 0.5):.1f} ms, "
            f"p99 {percentile(recent, 0.99):.1f} ms, {view.left_seconds():.0f} s left",
            highlight=False,
        )
