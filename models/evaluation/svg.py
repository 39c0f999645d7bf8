"""Small pictures as inline SVG, which take their colours from the page: classes, no styles. All text is escaped."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log, log10
from typing import NamedTuple

from models.evaluation.metrics import Bin
from models.evaluation.slices import poisson_bounds


class Axis(NamedTuple):
    """A logarithmic scale from the lowest to the highest value shown."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return where a value lies, 0 to 1; what lies beyond is at the end."""
        clipped = min(max(value, self.low), self.high)
        return log(clipped / self.low) / log(self.high / self.low)

    def ticks(self, count_max: int) -> list[float]:
        """Return round values on the axis, at most so many."""
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [digit * 10.0**decade for decade in decades for digit in digits]
            found = [value for value in found if self.low <= value * 1.001 and value <= self.high * 1.001]
            if len(found) <= count_max:
                return found
        return found[:: -(-len(found) // count_max)]


_RATIO = Axis(0.5, 2.0)


def rates_axis(curves: Sequence[Sequence[Bin]]) -> Axis:
    """Return one axis for the rates, predicted and observed, of several curves."""
    rates = [rate for curve in curves for point in curve for rate in (point.predicted, point.observed) if rate > 0]
    if not rates:
        return Axis(0.001, 1.0)
    low, high = min(rates) / 1.3, min(1.0, max(rates) * 1.3)
    return Axis(low, max(high, low * 3.0))


def percent(rate: float) -> str:
    """Return a rate as a percentage with two significant digits."""
    shown = f"{rate * 100:.2g}" if rate < 0.995 else "100"
    return f"{float(shown):g}%"


def reliability(curve: Sequence[Bin], axis: Axis, size: int, label: str, confidence: float) -> str:
    """Return a reliability curve: observed over predicted rate, both logarithmic, with Poisson intervals."""
    left, right, bottom, top = 34, 14, 20, 6  # a "100%" below the right edge has half of its width beyond
    span = size - left - right

    def across(rate: float) -> float:
        return left + span * axis.place(rate)

    def up(rate: float) -> float:
        return top + span * (1.0 - axis.place(rate))

    parts = [f'<svg class="plot" viewBox="0 0 {size} {span + top + bottom}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<rect class="frame" x="{left}" y="{top}" width="{span}" height="{span}"/>')
    for tick in axis.ticks(4):
        parts.append(
            f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{top}" y2="{top + span}"/>'
        )
        parts.append(f'<line class="grid" x1="{left}" x2="{left + span}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<text x="{across(tick):.1f}" y="{top + span + 13}" text-anchor="middle">{percent(tick)}</text>')
        parts.append(f'<text x="{left - 4}" y="{up(tick) + 3:.1f}" text-anchor="end">{percent(tick)}</text>')
    parts.append(f'<line class="ideal" x1="{left}" y1="{top + span}" x2="{left + span}" y2="{top}"/>')
    dots = " ".join(f"{across(point.predicted):.1f},{up(point.observed):.1f}" for point in curve if point.observed > 0)
    parts.append(f'<polyline class="curve" points="{dots}"/>')
    for point in curve:
        low, high = (
            (bound / point.clicks * point.observed for bound in poisson_bounds(point.clicks, confidence))
            if point.clicks
            else (0.0, poisson_bounds(0, confidence)[1] / point.rows)
        )
        x, title = f"{across(point.predicted):.1f}", _title(point)
        parts.append(f'<line class="error" x1="{x}" x2="{x}" y1="{up(low):.1f}" y2="{up(high):.1f}"/>')
        kind = "dot" if point.observed > 0 else "dot none"
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{up(point.observed):.1f}" r="3">{title}</circle>')
    return "".join([*parts, "</svg>"])


def _title(point: Bin) -> str:
    return (
        f"<title>predicted {point.predicted:.6f}, came {point.observed:.6f}: "
        f"{point.clicks} clicks of {point.rows} rows</title>"
    )


def ratio(value: float | None, low: float | None, high: float | None, label: str) -> str:
    """Return a ratio's dot with its interval, from 0.5 to 2, beside a line at 1. None of a bound is without end."""
    width, height = 132, 18
    parts = [f'<svg class="mini" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']

    def across(at: float) -> float:
        return 4 + (width - 8) * _RATIO.place(at)

    parts.append(f'<line class="ideal" x1="{across(1.0):.1f}" x2="{across(1.0):.1f}" y1="1" y2="{height - 1}"/>')
    if value is not None or low is not None:
        ends = across(_RATIO.low if low is None else low), across(_RATIO.high if high is None else high)
        parts.append(f'<line class="error" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="9" y2="9"/>')
    if value is not None:
        beyond = not _RATIO.low <= value <= _RATIO.high
        parts.append(f'<circle class="{"dot none" if beyond else "dot"}" cx="{across(value):.1f}" cy="9" r="3.5"/>')
    return "".join([*parts, "</svg>"])


def difference(mean: float, low: float, high: float, label: str) -> str:
    """Return a difference with its interval beside zero, on a linear axis: the right is better."""
    width, height, edge = 460, 56, 16
    reach = max(abs(low), abs(high), abs(mean), 1e-12) * 1.15

    def across(at: float) -> float:
        return width / 2 + (width / 2 - edge) * at / reach

    kind = "good" if low > 0 else "bad" if high < 0 else "open"
    return "".join(
        [
            f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">',
            f'<line class="ideal" x1="{across(0):.1f}" x2="{across(0):.1f}" y1="4" y2="{height - 16}"/>',
            f'<line class="bar {kind}" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="20" y2="20"/>',
            f'<circle class="mean {kind}" cx="{across(mean):.1f}" cy="20" r="6"/>',
            f'<text x="{across(0):.1f}" y="{height - 3}" text-anchor="middle">no difference</text>',
            f'<text x="{edge}" y="{height - 3}">worse</text>',
            f'<text x="{width - edge}" y="{height - 3}" text-anchor="end">better</text>',
            "</svg>",
        ]
    )


def bar(share: float, label: str, kind: str = "", mark: float | None = None) -> str:
    """Return a horizontal bar that fills a share, 0 to 1, of its width; `mark` is a line across at another share."""
    width, height = 132, 14
    parts = [f'<svg class="mini" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<rect class="track" x="0" y="3" width="{width}" height="8"/>')
    filled = width * min(max(share, 0.0), 1.0)
    parts.append(f'<rect class="fill {kind}" x="0" y="3" width="{filled:.1f}" height="8"/>')
    if mark is not None:
        at = width * min(max(mark, 0.0), 1.0)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
    return "".join([*parts, "</svg>"])
