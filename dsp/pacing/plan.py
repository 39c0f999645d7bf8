"""The spend plan: how much of a budget should be spent by an instant, given flight, dayparts, time zone and traffic.

Days are the advertiser's. What earlier days left unspent is spread over what is left of the flight.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from math import inf
from typing import NamedTuple
from zoneinfo import ZoneInfo

from dsp.catalog.terms import Budget, Daypart, Flight, PacingMode
from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR
from dsp.kernel.money import Micros

#: A flight is planned no further than this; the plan of today hardly depends on a share that small.
_DAYS_MAX = 3_660
#: How much faster than even an `ahead` plan begins; it ends as much slower.
_AHEAD = 0.5


@dataclass(frozen=True, slots=True)
class Day:
    """The part of one local day that lies in the flight, as traffic weight (hours, scaled by the traffic curve).

    `edges_ms` (E,) begin at the flight's first instant of the day and end at its last; `weights` (E,) are cumulative.
    `rest` is the weight between the end of the day and the flight's end; None for a flight without end.
    """

    edges_ms: tuple[int, ...]
    weights: tuple[float, ...]
    rest: float | None

    def weight(self, now_ms: int) -> float:
        """Return the day's weight up to an instant."""
        at = bisect_right(self.edges_ms, now_ms)
        if at == 0:
            return 0.0
        if at == len(self.edges_ms):
            return self.weights[-1]
        begin, end = self.edges_ms[at - 1], self.edges_ms[at]
        return self.weights[at - 1] + (self.weights[at] - self.weights[at - 1]) * (now_ms - begin) / (end - begin)

    def density(self, now_ms: int) -> float:
        """Return the weight per second at an instant; 0 outside the flight and outside dayparts."""
        at = bisect_right(self.edges_ms, now_ms)
        if at in (0, len(self.edges_ms)):
            return 0.0
        return (self.weights[at] - self.weights[at - 1]) / (self.edges_ms[at] - self.edges_ms[at - 1]) * 1_000


class Pace(NamedTuple):
    """What a plan has for an instant; amounts in micros."""

    planned_micros: Micros | None  # from the flight's begin until now; None without a plan
    rate_micros_second: float  # now: 0 outside dayparts, infinite where all may be spent at once
    today_micros: float  # of today, until now
    rest_micros: float  # of today, from now on
    day_seconds: float  # length of today's part of the flight


@dataclass(frozen=True, slots=True)
class Plan:
    """Today's plan for one budget: the tighter of what the day and what the flight allow. Amounts in micros."""

    day: Day
    mode: PacingMode
    before_today: Micros
    today_max: Micros | None  # the daily budget
    flight_left: Micros | None  # the total budget less what was spent before today

    def planned_micros(self, now_ms: int) -> Micros:
        """Return what should be spent between the flight's begin and an instant of today."""
        return self.before_today + round(self._tightest(self.day.weight(now_ms), self.day.density(now_ms))[0])

    def pace(self, now_ms: int) -> Pace:
        """Return all that a controller follows of the plan at an instant of today."""
        by_now, rate = self._tightest(self.day.weight(now_ms), self.day.density(now_ms))
        rest = max(self._tightest(self.day.weights[-1], 0.0)[0] - by_now, 0.0)
        seconds = (self.day.edges_ms[-1] - self.day.edges_ms[0]) / 1_000
        return Pace(self.before_today + round(by_now), rate, by_now, rest, seconds)

    def _tightest(self, done: float, density: float) -> tuple[float, float]:
        """Return (micros by now, micros per second) of the budget that allows less, with `done` of the day's weight."""
        today = self.day.weights[-1]
        bounds = [(self.today_max, today), (self.flight_left, None if self.day.rest is None else today + self.day.rest)]
        return min(self._amount(budget, whole, done, density) for budget, whole in bounds if budget is not None)

    def _amount(self, budget: Micros, whole: float | None, done: float, density: float) -> tuple[float, float]:
        """Return (micros by now, micros per second) of one budget that must last for the weight `whole`."""
        if done <= 0.0 and density <= 0.0:
            return 0.0, 0.0
        if self.mode is PacingMode.ASAP or not whole:  # nothing to last to: no end
            return float(budget), inf
        share, density = min(done / whole, 1.0), density / whole
        if self.mode is PacingMode.EVEN:
            return budget * share, budget * density
        return budget * share * (1.0 + _AHEAD * (1.0 - share)), budget * density * (1.0 + _AHEAD * (1.0 - 2.0 * share))


def plan(
    budget: Budget,
    flight: Flight,
    dayparts: tuple[Daypart, ...],
    timezone: str,
    mode: PacingMode,
    traffic_curve: tuple[float, ...],
    spent_before_today: Micros,
    now_ms: int,
) -> Plan | None:
    """Return the plan of the local day that `now_ms` falls on; None where no budget bounds the spend.

    Args:
        timezone: IANA name; days, dayparts and the traffic curve are in it.
        traffic_curve: relative traffic by local hour of the day (24 weights); empty means the same at every hour.
        spent_before_today: micros spent in the flight before the local day began.
    """
    if budget.daily_micros is None and budget.total_micros is None:
        return None
    total = budget.total_micros
    return Plan(
        day=_day(flight, dayparts, timezone, traffic_curve, _local(now_ms, timezone).date()),
        mode=mode,
        before_today=spent_before_today,
        today_max=budget.daily_micros,
        flight_left=None if total is None else max(total - spent_before_today, 0),
    )


def left_micros(budget: Budget, spent_today: Micros, spent_micros: Micros) -> Micros | None:
    """Return what may still be spent today, of the day's budget and of the whole; None where nothing bounds it."""
    bounds = [(budget.daily_micros, spent_today), (budget.total_micros, spent_micros)]
    return min((max(most - spent, 0) for most, spent in bounds if most is not None), default=None)


def day_number(now_ms: int, timezone: str) -> int:
    """Return the day in a time zone as a count of days since 1970-01-01: the day that daily budgets belong to."""
    return _local(now_ms, timezone).date().toordinal() - _EPOCH


_EPOCH = date(1970, 1, 1).toordinal()


def forget() -> None:
    """Forget the days that were worked out: with other traffic curves most are not asked for again, at 3 kB each."""
    _day.cache_clear()


#: More than there are line items: with traffic learned by line item hardly two have a day in common.
_DAYS_KEPT = 65_536


@lru_cache(maxsize=_DAYS_KEPT)
def _day(
    flight: Flight, dayparts: tuple[Daypart, ...], timezone: str, traffic_curve: tuple[float, ...], today: date
) -> Day:
    hours = _hours_of_week(dayparts, traffic_curve)
    midnight, next_midnight = _midnight(today, timezone), _midnight(today + timedelta(days=1), timezone)
    begin = max(flight.start_ms, midnight)
    if flight.end_ms is None:
        return Day(*_walk(begin, next_midnight, timezone, hours), None)
    edges, weights = _walk(begin, min(flight.end_ms, next_midnight), timezone, hours)
    return Day(edges, weights, _rest(next_midnight, flight.end_ms, timezone, hours))


def _rest(begin_ms: int, end_ms: int, timezone: str, hours: Sequence[float]) -> float:
    """Return the weight between two instants: the days at both ends exactly, those between by weekday."""
    end_ms = min(end_ms, begin_ms + _DAYS_MAX * MS_PER_DAY)
    if end_ms <= begin_ms:
        return 0.0
    first, last = _local(begin_ms, timezone).date(), _local(end_ms, timezone).date()
    if first == last:
        return _walk(begin_ms, end_ms, timezone, hours)[1][-1]
    head = _walk(begin_ms, _midnight(first + timedelta(days=1), timezone), timezone, hours)[1][-1]
    tail = _walk(_midnight(last, timezone), end_ms, timezone, hours)[1][-1]
    between = range(first.toordinal() + 1, last.toordinal())
    by_weekday = [sum(hours[24 * weekday : 24 * weekday + 24]) for weekday in range(7)]
    return head + tail + sum(by_weekday[(ordinal - 1) % 7] for ordinal in between)  # ordinal 1 was a Monday


def _walk(
    begin_ms: int, end_ms: int, timezone: str, hours: Sequence[float]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the hour edges from begin to end, and the cumulative weight at each; right on days that clocks change."""
    edges, weights = [begin_ms], [0.0]
    while edges[-1] < end_ms:
        local = _local(edges[-1], timezone)
        into_hour = local.minute * 60_000 + local.second * 1_000 + edges[-1] % 1_000
        edge = min(edges[-1] + MS_PER_HOUR - into_hour, end_ms)
        hour = 24 * local.weekday() + local.hour
        weights.append(weights[-1] + hours[hour] * (edge - edges[-1]) / MS_PER_HOUR)
        edges.append(edge)
    return tuple(edges), tuple(weights)


def _hours_of_week(dayparts: tuple[Daypart, ...], traffic_curve: tuple[float, ...]) -> list[float]:
    curve = traffic_curve or (1.0,) * 24
    active = {24 * part.weekday + hour for part in dayparts for hour in range(part.start_hour, part.end_hour)}
    return [curve[hour % 24] if hour in active or not dayparts else 0.0 for hour in range(168)]


def _local(now_ms: int, timezone: str) -> datetime:
    return datetime.fromtimestamp(now_ms // 1_000, ZoneInfo(timezone))


def _midnight(day: date, timezone: str) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)).timestamp() * 1_000)
