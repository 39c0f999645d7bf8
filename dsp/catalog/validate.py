"""What the catalogue accepts: every refused field with its reason, and values in their normal form. Pure.

Rules that need other entities (does the parent exist, is the external id taken) are in dsp.store.checks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from zoneinfo import available_timezones

import msgspec

from dsp.catalog import values
from dsp.catalog.creative import TRACKERS_MAX, creative, landing_url, markup, mime, tracker
from dsp.catalog.entities import Advertiser, Audience, Campaign, ConversionRule, Creative, Deal, LineItem
from dsp.catalog.fields import FieldRule, ItemsError, Rules
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.rules import Dimension, Targeting
from dsp.catalog.terms import CAP_IMPRESSIONS_MAX, Budget, Daypart, Flight, FrequencyCap, Goal, GoalKind
from dsp.kernel.errors import Fault, ValidationError
from dsp.kernel.money import MICROS_PER_UNIT, PRICE_MICROS_CPM_MAX
from dsp.openrtb.tracker import Tracker

#: Fields that the platform sets, and that no caller may.
READ_ONLY = ("id", "status", "version")
#: What answers show beside what callers set, and why they cannot.
_SHOWN = dict.fromkeys((*READ_ONLY, "effective_status"), "is set by the platform") | {
    "status": "is changed by activate, pause and archive"
}
#: Ten billion units: beyond any budget, and far inside 64 bits even when summed over the catalogue.
AMOUNT_MICROS_MAX = 10_000_000_000 * MICROS_PER_UNIT
#: A return of 1 % to 100,000 % of the cost: beyond that, percent or units were meant.
ROAS_MICROS_MIN, ROAS_MICROS_MAX = 10_000, 1_000 * MICROS_PER_UNIT
#: The year 9999.
TIME_MS_MAX = 253_402_300_799_999
#: In 1973. What is below is a time in seconds, which would be long past: a flight would begin, or end, at once.
TIME_MS_MIN = 100_000_000_000
#: Before the year 9000. Plans look years beyond where a flight begins, in time zones that are ahead, and calendars end
#: with the year 9999: one that began in its last hours was planned by nobody, and nothing beside it either.
START_MS_MAX = 221_845_391_999_999
SECONDS_PER_DAY = 86_400
WINDOW_SECONDS_MAX = 365 * SECONDS_PER_DAY
FREQUENCY_CAPS_MAX = 10
DAYPARTS_MAX = 7 * 24


def parse(kind: Kind, fields: Mapping[str, Any], before: Entity | None = None) -> Entity:
    """Return the entity that the fields describe, normalised, with id 0, version 1 and status draft.

    What is as it was `before` stays so, whatever the rules have become since.

    Raises:
        ValidationError: with every refused field.
    """
    faults = [Fault(name, message) for name, message in _SHOWN.items() if name in fields]
    values_ = {name: value for name, value in fields.items() if name not in _SHOWN}
    # The id is required by the struct and not known yet.
    entity: Entity = _RULES.build(kind.entity, {**values_, "id": 0}, "", faults, before)
    if faults:
        raise ValidationError(faults)
    return entity


@dataclass(frozen=True, slots=True)
class Between:
    """The rule of a number that has bounds, both inclusive."""

    low: int
    high: int

    def __call__(self, value: int) -> int:
        """Return the value; raises ValueError."""
        if not self.low <= value <= self.high:
            raise ValueError(f"must be between {self.low} and {self.high}")
        return value


def _instant(latest_ms: int) -> FieldRule:
    def rule(value: int) -> int:
        if value and not TIME_MS_MIN <= value <= latest_ms:
            raise ValueError(f"must be 0 or milliseconds since the epoch, between {TIME_MS_MIN} and {latest_ms}")
        return value

    return rule


def _clicked(post_view: bool) -> bool:
    if post_view:
        raise ValueError("must be false: a conversion is known by the click before it, and by nothing else")
    return post_view


def _optional(rule: Callable[[str], str]) -> FieldRule:
    """Take an empty string as absence."""
    return lambda value: rule(value) if value.strip() else None


def _each(rule: FieldRule, items_max: int = 1_000) -> FieldRule:
    """Apply a rule to every item, and drop repetitions."""

    def each(items: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(items) > items_max:
            raise ValueError(f"must have at most {items_max} items")
        kept: dict[Any, None] = {}
        refused = []
        for number, item in enumerate(items):
            try:
                kept[rule(item)] = None
            except ValueError as fault:
                refused.append((number, str(fault)))
        if refused:
            raise ItemsError(refused)
        return tuple(kept)

    return each


#: Files beside the zones: a host's own setting, which no other host need have, and what stands for none.
_NOWHERE = frozenset({"localtime", "Factory"})


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NOWHERE


def _timezone(value: str) -> str:
    if value not in _timezones():
        raise ValueError("must be an IANA time zone such as Europe/Berlin")
    return value


def _flight(flight: Flight, path: str, faults: list[Fault]) -> Flight:
    if flight.end_ms is not None and flight.end_ms <= flight.start_ms:
        faults.append(Fault(f"{path}.end_ms", "must be after start_ms"))
    return flight


def _budget(budget: Budget, path: str, faults: list[Fault]) -> Budget:
    daily, total = budget.daily_micros, budget.total_micros
    if daily is not None and total is not None and daily > total:
        faults.append(Fault(f"{path}.daily_micros", "must not be above total_micros"))
    return budget


def _daypart(daypart: Daypart, path: str, faults: list[Fault]) -> Daypart:
    if daypart.end_hour <= daypart.start_hour:
        message = "must be after start_hour; write hours across midnight as two dayparts"
        faults.append(Fault(f"{path}.end_hour", message))
    return daypart


def _goal(goal: Goal, path: str, faults: list[Fault]) -> Goal:
    if goal.kind is GoalKind.CPM and goal.target_micros > PRICE_MICROS_CPM_MAX:
        faults.append(Fault(f"{path}.target_micros", f"must be at most {PRICE_MICROS_CPM_MAX} for CPM"))
    if goal.kind is GoalKind.ROAS and not ROAS_MICROS_MIN <= goal.target_micros <= ROAS_MICROS_MAX:
        message = f"must be between {ROAS_MICROS_MIN} and {ROAS_MICROS_MAX} for ROAS: micros of value per unit of cost"
        faults.append(Fault(f"{path}.target_micros", message))
    return goal


def _targeting(targeting: Targeting, path: str, faults: list[Fault]) -> Targeting:
    clauses = {}
    for dimension, clause in targeting.clauses.items():
        at = f"{path}.clauses.{dimension}"
        shape = values.SHAPES[dimension]
        include = _normalised(clause.include, shape, f"{at}.include", faults)
        exclude = _normalised(clause.exclude, shape, f"{at}.exclude", faults)
        excluded = set(exclude)
        both = sorted(one for one in include if not excluded.isdisjoint(values.covering(dimension, one)))
        if both:
            faults.append(Fault(f"{at}.exclude", f"also included: {', '.join(both[:5])}"))
        if include or exclude:
            clauses[dimension] = msgspec.structs.replace(clause, include=include, exclude=exclude)
    groups: list[tuple[str, ...]] = []
    barred = frozenset(clauses[Dimension.SEGMENT].exclude) if Dimension.SEGMENT in clauses else frozenset()
    for number, group in enumerate(targeting.audience):
        at = f"{path}.audience[{number}]"
        if not group:
            faults.append(Fault(at, "must name at least one segment"))
        groups.append(_normalised(group, values.identifier, at, faults))
        if groups[-1] and barred.issuperset(groups[-1]):
            faults.append(Fault(at, "every segment of it is excluded"))
    return Targeting(clauses=clauses, audience=tuple(groups))


def _normalised(items: tuple[str, ...], shape: Callable[[str], str], path: str, faults: list[Fault]) -> tuple[str, ...]:
    made: dict[str, None] = {}
    for number, item in enumerate(items):
        try:
            made[shape(item)] = None
        except ValueError as fault:
            faults.append(Fault(f"{path}[{number}]", str(fault)))
    return tuple(made)


def _line_item(line_item: LineItem, path: str, faults: list[Fault]) -> LineItem:
    low, high = line_item.bid_min_micros_cpm, line_item.bid_max_micros_cpm
    if low is not None and high is not None and low > high:
        faults.append(Fault("bid_min_micros_cpm", "must not be above bid_max_micros_cpm"))
    return line_item


_AMOUNT = Between(1, AMOUNT_MICROS_MAX)
_PRICE = Between(1, PRICE_MICROS_CPM_MAX)
_PARENT = Between(1, 2**63 - 1)
_CAPS = _each(lambda cap: cap, FREQUENCY_CAPS_MAX)
_NAMES: dict[str, FieldRule] = {"name": values.text, "external_id": _optional(values.text)}
_CODES = _each(Between(1, 9_999), 100)

_FIELDS: dict[type, dict[str, FieldRule]] = {
    Advertiser: {
        **_NAMES,
        "domain": values.domain,
        "categories": _each(values.category),
        "timezone": _timezone,
        "frequency_caps": _CAPS,
    },
    Campaign: {**_NAMES, "advertiser_id": _PARENT, "frequency_caps": _CAPS},
    LineItem: {
        **_NAMES,
        "campaign_id": _PARENT,
        "dayparts": _each(lambda daypart: daypart, DAYPARTS_MAX),
        "frequency_caps": _CAPS,
        "bid_min_micros_cpm": _PRICE,
        "bid_max_micros_cpm": _PRICE,
    },
    Creative: {
        **_NAMES,
        "line_item_id": _PARENT,
        "landing_url": landing_url,
        "markup": markup,
        "width": Between(1, 9_999),
        "height": Between(1, 9_999),
        "duration_seconds": Between(1, 3_600),
        "mime": _optional(mime),
        "bitrate_kbps": Between(1, 100_000),
        "categories": _each(values.category),
        "attributes": _CODES,
        "apis": _CODES,
        "protocols": _CODES,
        "language": _optional(values.language),
        "trackers": _each(lambda tracker: tracker, TRACKERS_MAX),
    },
    Deal: {**_NAMES, "exchange": values.exchange, "deal_id": values.text, "price_micros_cpm": _PRICE},
    Audience: {**_NAMES, "advertiser_id": _PARENT, "segment_id": values.identifier},
    ConversionRule: {
        **_NAMES,
        "advertiser_id": _PARENT,
        "window_seconds": Between(1, WINDOW_SECONDS_MAX),
        "post_view": _clicked,
        "value_micros": _AMOUNT,
    },
    Budget: {"daily_micros": _AMOUNT, "total_micros": _AMOUNT},
    Flight: {"start_ms": _instant(START_MS_MAX), "end_ms": _instant(TIME_MS_MAX)},
    Goal: {"target_micros": _AMOUNT},
    Daypart: {"weekday": Between(0, 6), "start_hour": Between(0, 23), "end_hour": Between(1, 24)},
    FrequencyCap: {
        "impressions": Between(1, CAP_IMPRESSIONS_MAX),
        "window_seconds": Between(1, WINDOW_SECONDS_MAX),
    },
}
_RULES = Rules(
    _FIELDS,
    structs={
        Flight: _flight,
        Budget: _budget,
        Daypart: _daypart,
        Goal: _goal,
        Targeting: _targeting,
        LineItem: _line_item,
        Creative: creative,
        Tracker: tracker,
    },
)
#: The bounds of numbers, by the name of their struct and their own.
BOUNDS = {
    (struct.__name__, name): rule
    for struct, rules in _FIELDS.items()
    for name, rule in rules.items()
    if isinstance(rule, Between)
}
