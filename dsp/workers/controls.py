"""What controls become in one step, by book, plans and traffic; dsp.workers.pacing reads these, and publishes."""

from collections.abc import Collection, Iterable, Sequence
from math import inf
from typing import NamedTuple

import msgspec

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, LineItem
from dsp.catalog.status import Status, effective
from dsp.catalog.terms import Budget, Daypart, Flight, Goal, GoalKind, PacingMode
from dsp.kernel import logging, metrics
from dsp.kernel.money import MICROS_PER_UNIT, Micros
from dsp.pacing.controller import Bought, Control, Controls, Law, hold, step
from dsp.pacing.plan import Pace, day_number, left_micros, plan
from dsp.pacing.traffic import Curves
from dsp.pricing.value import conversion_worths, unit_micros
from dsp.store.book import DayResult

#: About so many line items are stepped at once: a quarter of a second.
STEP_LINE_ITEMS = 5_000
#: A campaign whose budget is the sum of its line items', but for rounding, does not hold them.
_SAME = 1.0001
#: Where no budget bounds it, what is paced may spend all at once.
_UNPLANNED = Pace(None, inf, 0.0, 0.0, 86_400.0)
#: Of what nothing was learned yet, nor planned.
_UNKNOWN = Control(planned_micros=0)


class Turn(NamedTuple):
    """Which campaigns, with their line items, are stepped: every `of`-th, from the `number`-th on."""

    number: int = 0
    of: int = 1

    def has(self, campaign_id: int) -> bool:
        """Tell whether it is a campaign's turn."""
        return campaign_id % self.of == self.number

    def after(self, line_items: int) -> "Turn":
        """Return the turn that follows, in a catalogue of so many line items."""
        of = max(1, -(-line_items // STEP_LINE_ITEMS))
        return Turn((self.number + 1) % of, of)


class _Terms(NamedTuple):
    """What one line item or campaign is paced by."""

    budget: Budget
    flight: Flight
    dayparts: tuple[Daypart, ...]
    timezone: str
    mode: PacingMode
    active: bool


def next_controls(
    catalogue: Catalogue,
    days: Iterable[DayResult],
    before: Controls,
    curves: Curves,
    law: Law,
    now_ms: int,
    turn: Turn = Turn(),  # noqa: B008  a tuple
) -> Controls:
    """Return the controls after one step: each campaign and line item by its own plan, the tighter one obeyed.

    Whose turn it is not keeps its control; who has none does not wait for one, as bidders hold back nobody without. A
    campaign that cannot be paced is closed, and the others go on.
    """
    advertisers = {advertiser.id: advertiser for advertiser in catalogue.advertisers}
    worths = conversion_worths(catalogue.conversion_rules)
    parts = {campaign.id: _Part(campaign, [], []) for campaign in catalogue.campaigns}
    for line_item in catalogue.line_items:
        parts[line_item.campaign_id].line_items.append(line_item)
    for day in days:
        if day.campaign_id in parts:
            parts[day.campaign_id].days.append(day)
    after = Controls(at_ms=now_ms, predicted_by=before.predicted_by)
    for number, part in parts.items():
        if not turn.has(number) and _kept(number, part.line_items, before, after):
            continue
        try:
            advertiser = advertisers[part.campaign.advertiser_id]
            found = _stepped(part, advertiser, worths.get(advertiser.id, 0), before, curves, law, now_ms)
        except Exception as fault:
            found = _closed(part, before, fault)
        after.campaigns[number], line_items = found
        after.line_items.update(line_items)
    return after


class _Part(NamedTuple):
    """A campaign with its line items, and what the book has of them."""

    campaign: Campaign
    line_items: list[LineItem]
    days: list[DayResult]


def _stepped(
    part: _Part,
    advertiser: Advertiser,
    conversion_worth: Micros,
    before: Controls,
    curves: Curves,
    law: Law,
    now_ms: int,
) -> tuple[Control, dict[int, Control]]:
    """Return the next controls of a campaign and of its line items, by their ids."""
    campaign, line_items, days = part
    days_of: dict[int, list[DayResult]] = {line_item.id: [] for line_item in line_items}
    for day in days:
        days_of.setdefault(day.line_item_id, []).append(day)
    above = (advertiser.status, campaign.status)
    terms = {each.id: _line_item_terms(each, campaign, advertiser.timezone, above) for each in line_items}
    shared = _campaign_terms(campaign, advertiser.timezone, terms.values())
    active = [number for number, own in terms.items() if own.active]
    held_by = _Paced.of(shared, days, curves, active, now_ms)
    paced = {number: _Paced.of(own, days_of[number], curves, [number], now_ms) for number, own in terms.items()}
    holds = _holds(campaign.budget, held_by, paced.values())
    held = (held_by if holds else held_by.resting()).step(before.campaigns.get(campaign.id), None, law, now_ms)
    found = {}
    for line_item in line_items:
        number = line_item.id
        bought = _bought(line_item.goal, conversion_worth, days_of[number])
        control = paced[number].step(before.line_items.get(number), bought, law, now_ms)
        # Who asked for as soon as possible is not slowed by a campaign that others share evenly.
        if holds and terms[number].mode is not PacingMode.ASAP:
            control = hold(control, held.level_now, law)
        left = min((each for each in (control.left_micros, held.left_micros) if each is not None), default=None)
        found[number] = msgspec.structs.replace(control, left_micros=left)
    return held, found


def _closed(part: _Part, before: Controls, fault: Exception) -> tuple[Control, dict[int, Control]]:
    """Return controls with which nothing of a campaign bids: without a plan it would spend as fast as it can.

    What was learned stays; where there was nothing yet, it begins cold when there is a plan.
    """
    number = part.campaign.id
    known = before.campaigns.get(number, _UNKNOWN)
    if not known.closed:
        logging.get(__name__).error("campaign closed, it cannot be paced", campaign_id=number, fault=repr(fault))
    learned = {one.id: before.line_items.get(one.id, _UNKNOWN) for one in part.line_items}
    shut = {key: msgspec.structs.replace(control, multiplier=0.0) for key, control in learned.items()}
    return msgspec.structs.replace(known, multiplier=0.0), shut


def _kept(campaign_id: int, members: Iterable[LineItem], before: Controls, after: Controls) -> bool:
    """Carry over the controls of a campaign and its line items, and return whether all of them have one."""
    held = before.campaigns.get(campaign_id)
    own = {line_item.id: before.line_items.get(line_item.id) for line_item in members}
    if held is None or None in own.values():
        return False
    after.campaigns[campaign_id] = held
    after.line_items.update({number: control for number, control in own.items() if control is not None})
    return True


class _Paced(NamedTuple):
    """What a line item or campaign spent, and what its plan has for now."""

    pace: Pace
    spent_micros: Micros
    impressions: int
    left_micros: Micros | None  # of today's budgets; None: no budget
    today_micros: float  # all that its plan has for today; of what may not bid, what it has spent
    ever_micros: float  # the same of the flight

    @classmethod
    def of(
        cls, terms: _Terms, days: Collection[DayResult], curves: Curves, line_items: Sequence[int], now_ms: int
    ) -> "_Paced":
        """Return it by the book, with the traffic that these line items have."""
        today = day_number(now_ms, terms.timezone)
        spent = impressions = spent_before_today = spent_today = 0
        for day in days:
            spent += day.spend_micros
            impressions += day.impressions
            if day.day < today:
                spent_before_today += day.spend_micros
            elif day.day == today:
                spent_today += day.spend_micros
        budget, flight, dayparts, timezone, mode, active = terms
        curve = curves.local(line_items, timezone, now_ms)
        found = plan(budget, flight, dayparts, timezone, mode, curve, spent_before_today, now_ms)
        pace = _UNPLANNED if found is None else found.pace(now_ms)
        left = None if found is None else left_micros(budget, spent_today, spent)
        if not active:  # what may not bid tells nothing about the market
            return cls(pace, spent, impressions, left, spent_today, spent).resting()
        all_day = inf if found is None else pace.today_micros + pace.rest_micros
        ever = inf if budget.total_micros is None else budget.total_micros
        return cls(pace, spent, impressions, left, all_day, ever)

    def resting(self) -> "_Paced":
        """Return it with nothing to learn from: its level waits as it is."""
        return self._replace(pace=self.pace._replace(rate_micros_second=0.0))

    def step(self, before: Control | None, bought: Bought | None, law: Law, now_ms: int) -> Control:
        """Return the next control."""
        planned_micros, rate = self.pace.planned_micros, self.pace.rate_micros_second
        if planned_micros and rate not in (0.0, inf):
            metrics.PACING_ERROR.observe(self.spent_micros / planned_micros)
        control = step(before, self.spent_micros, self.impressions, self.pace, now_ms, law, bought)
        return msgspec.structs.replace(control, left_micros=self.left_micros)


def _holds(budget: Budget, campaign: _Paced, members: Collection[_Paced]) -> bool:
    """Tell whether a campaign's budget is less than its line items come to spend by their own.

    Where it is not, to keep the campaign to an even plan would only hold back those that are late for those in a hurry.
    """
    today, ever = sum(one.today_micros for one in members), sum(one.ever_micros for one in members)
    if today <= campaign.today_micros * _SAME:
        return False
    bounds = ((budget.daily_micros, today), (budget.total_micros, ever))
    return any(most is not None and most * _SAME < own for most, own in bounds)


def _bought(goal: Goal, conversion_worth: Micros, days: Iterable[DayResult]) -> Bought | None:
    """What the spend bought, in the goal's terms; None where nobody knows what that was worth."""
    unit = unit_micros(goal, conversion_worth)
    expected = sum(day.value_micros for day in days)
    if unit <= 0 or (expected <= 0 and any(day.spend_micros for day in days)):
        return None
    counted = {
        GoalKind.CPM: float(expected),
        GoalKind.CPC: float(unit * sum(day.clicks for day in days)),
        GoalKind.CPA: float(unit * sum(day.conversions for day in days)),
        GoalKind.ROAS: sum(day.conversion_value_micros for day in days) * MICROS_PER_UNIT / goal.target_micros,
    }
    return Bought(expected, counted[goal.kind], unit)


def _line_item_terms(line_item: LineItem, campaign: Campaign, timezone: str, above: tuple[Status, ...]) -> _Terms:
    flight = line_item.flight.within(campaign.flight)
    active = effective(line_item.status, *above) is Status.ACTIVE
    return _Terms(line_item.budget, flight, line_item.dayparts, timezone, line_item.pacing, active)


def _campaign_terms(campaign: Campaign, timezone: str, members: Iterable[_Terms]) -> _Terms:
    """A campaign's plan runs while any of its line items may, and in a hurry only if all of them are."""
    active = [member for member in members if member.active]
    hours = {part for member in active for part in member.dayparts}
    all_day = any(not member.dayparts for member in active)
    dayparts = () if all_day else tuple(sorted(hours, key=lambda part: (part.weekday, part.start_hour, part.end_hour)))
    starts = [member.flight.start_ms for member in active]
    ends = [member.flight.end_ms for member in active]
    flight = campaign.flight
    if active:
        known = [end for end in ends if end is not None]
        flight = Flight(start_ms=min(starts), end_ms=max(known) if len(known) == len(ends) else flight.end_ms)
    modes = {member.mode for member in active}
    mode = modes.pop() if len(modes) == 1 else PacingMode.EVEN
    return _Terms(campaign.budget, flight, dayparts, timezone, mode, bool(active))
