"""A simulated day in second and first price markets: delivery to plan by the hour, targets kept, mishaps survived."""

from collections.abc import Callable
from math import pi, sin

import numpy as np
import pytest

from dsp.catalog.terms import Budget, Flight, PacingMode
from dsp.kernel.clock import MS_PER_HOUR
from dsp.pacing.controller import Bought, Control, Law, step
from dsp.pacing.plan import Pace, Plan, plan
from tests.unit.pacing.market import Market, Trace, run

MIDNIGHT = 1_748_822_400_000  # a Monday, UTC
HOUR = MS_PER_HOUR
DAY = 24 * HOUR
CURVE = tuple(1.0 + 0.8 * sin(2 * pi * (hour - 8) / 24) for hour in range(24))
UNIT = 500_000


def daily(budget: Callable[[int], int], mode: PacingMode = PacingMode.EVEN) -> Callable[[int, int], Plan]:
    """Return the plan of an open flight with a daily budget, which may change in time."""

    def plan_at(now_ms: int, spent: int) -> Plan:
        terms = Budget(daily_micros=budget(now_ms))
        found = plan(terms, Flight(start_ms=MIDNIGHT), (), "UTC", mode, CURVE, 0, now_ms)
        assert found is not None
        return found

    return plan_at


def busy(rate: float) -> Callable[[int], float]:
    """Return traffic that follows the curve."""
    return lambda now_ms: rate * CURVE[(now_ms - MIDNIGHT) // HOUR % 24]


def supply(market: Market, multiplier: float) -> float:
    """Return what all of a day's auctions would cost at a multiplier."""
    control = Control(multiplier=multiplier)
    sample = Market(lambda _: 20_000.0, seed=99, first_price=market.first_price).costs(0, 10.0, control)
    return float(sample.sum() / 200_000 * sum(market.rate(MIDNIGHT + hour * HOUR) * 3_600 for hour in range(24)))


def at_hours(trace: Trace, step_ms: int) -> list[tuple[int, int]]:
    """Return (spent, planned) at the end of each hour of the day."""
    return [(trace.spent[row], trace.planned[row]) for row in range(HOUR // step_ms, len(trace.spent), HOUR // step_ms)]


@pytest.mark.parametrize("first_price", [False, True])
@pytest.mark.parametrize(
    ("mode", "times"),  # how often the traffic suffices; ahead needs half as much again in the morning
    [(PacingMode.EVEN, 1.3), (PacingMode.EVEN, 3.0), (PacingMode.EVEN, 20.0), (PacingMode.AHEAD, 3.0)],
)
def test_every_hour_is_within_two_percent_of_plan(first_price: bool, times: float, mode: PacingMode) -> None:
    market = Market(busy(6.0), first_price=first_price)
    budget = int(supply(market, 1.0) / times)
    trace = run(market, daily(lambda _: budget, mode), budget, MIDNIGHT, MIDNIGHT + DAY, 5_000, unit_micros=UNIT)
    for hour, (spent, planned) in enumerate(at_hours(trace, 5_000), 1):
        assert abs(spent - planned) <= 0.02 * budget, hour
        if hour > 2:
            assert spent == pytest.approx(planned, rel=0.02), hour


def test_a_thousand_impressions_a_day_are_on_plan_at_every_hour() -> None:
    """Two percent of such a day are two dozen impressions, and an hour's chance moves spend by a fourth of that."""

    budget = int(supply(Market(lambda _: 0.05), 1.0) / 5)

    def gap(law: Law, seed: int) -> float:
        market = Market(lambda _: 0.05, seed=seed, billing_delay_ms=2_500)
        trace = run(market, daily(lambda _: budget), budget, MIDNIGHT, MIDNIGHT + DAY, 10_000, law)
        assert 1_000 < budget / trace.controls[-1].cost_micros < 1_500
        return max(abs(spent - planned) / budget for spent, planned in at_hours(trace, 10_000))

    assert max(gap(Law(), seed) for seed in range(5)) <= 0.02
    as_if_small = Law(catch_up_day_impressions=1e9)
    assert max(gap(as_if_small, seed) for seed in range(5)) > 0.02


def test_a_market_dearer_than_the_value_is_delivered_to_while_the_average_allows() -> None:
    market = Market(busy(6.0), first_price=False)
    budget = int(supply(market, 1.0) * 1.15)  # more than bids at value could spend
    law = Law()
    trace = run(market, daily(lambda _: budget), budget, MIDNIGHT, MIDNIGHT + DAY, 5_000, law, unit_micros=UNIT)
    assert trace.spent[-1] / budget > 0.98
    assert trace.spent[-1] <= trace.value[-1]
    assert max(control.multiplier for control in trace.controls) > 1.1
    held = run(Market(busy(6.0), first_price=False), daily(lambda _: budget), budget, MIDNIGHT, MIDNIGHT + DAY, 5_000)
    assert held.spent[-1] / budget < 0.9  # nobody knows what was bought, so no bid exceeds value
    assert all(control.multiplier <= 1.0 for control in held.controls)


def test_who_comes_late_to_traffic_too_little_for_two_gets_a_part_of_it() -> None:
    """Only the better of their bids is offered; the one that was there has learned how far it may exceed value."""
    random, law = np.random.default_rng(1), Law()
    plan_at = daily(lambda _: 10**10)
    controls: list[Control | None] = [None, None]
    bought, impressions = [0, 0], [0, 0]
    for now_ms in range(MIDNIGHT, MIDNIGHT + 8 * HOUR, 20_000):
        for number in range(1 if now_ms < MIDNIGHT + HOUR else 2):
            units = Bought(bought[number], float(bought[number]), UNIT)
            spent = impressions[number] * 1_000
            pace = plan_at(now_ms, spent).pace(now_ms)
            controls[number] = step(controls[number], spent, impressions[number], pace, now_ms, law, units)
        for _ in range(5):
            values = 3_000.0 * np.exp(random.normal(0.0, 0.05, 2))
            bids = [value * one.multiplier if one else 0.0 for value, one in zip(values, controls, strict=True)]
            best = int(np.argmax(bids))
            bought[best] += int(values[best])
            impressions[best] += 1
        if now_ms == MIDNIGHT + HOUR:
            first, second = (one.multiplier if one else 0.0 for one in controls)
            assert first == law.multiplier_max
            assert 1.0 <= second < 1.02
    assert impressions[1] > 0.15 * sum(impressions)


def test_bids_rise_above_value_only_until_something_is_bought() -> None:
    law, nothing, open_ = Law(), Bought(0, 0.0, UNIT), Pace(10**6, 100.0, 1e6, 1e9, 86_400.0)

    def waited(steps: int, bought: Bought | None, pace: Pace = open_) -> Control:
        control = Control(level=1.0, at_ms=MIDNIGHT, planned_micros=1)
        for _ in range(steps):
            control = step(control, 0, 0, pace, control.at_ms + 10_000, law, bought)
        return control

    late = waited(1_800, nothing)  # five hours
    assert [waited(1, nothing).multiplier, late.multiplier] == [pytest.approx(1.01, abs=0.001), law.multiplier_max]
    assert waited(1_800, None).multiplier == 1.0  # there is no target, or nobody knows what was bought
    assert waited(1_800, nothing, open_._replace(rate_micros_second=0.0)).multiplier < 1.02  # nothing is bid
    first = step(late, 2_000, 1, open_, late.at_ms + 1_000, law, Bought(1_000, 1_000.0, UNIT))
    assert first.multiplier <= 1.0 + 1.0 / law.mu_target_start


@pytest.mark.parametrize("first_price", [False, True])
@pytest.mark.parametrize("realised", [0.6, 1.0, 1.4])
def test_the_average_cost_stays_within_the_target(first_price: bool, realised: float) -> None:
    market = Market(busy(6.0), first_price=first_price, realised=realised)
    budget = int(supply(market, 2.0) * 3)  # far more than the target lets be spent
    trace = run(market, daily(lambda _: budget), budget, MIDNIGHT, MIDNIGHT + DAY, 5_000, unit_micros=UNIT)
    # What was paid before the results were in is not won back where every win costs all that it is worth.
    assert trace.spent[-1] <= 1.05 * realised * trace.value[-1]
    if first_price:  # and what the target allows is used
        assert trace.spent[-1] >= 0.9 * min(realised, 2.0) * trace.value[-1]


def test_a_few_conversions_prove_little_and_many_prove_much() -> None:
    def ratio(units: int, expected_units: int) -> float:
        bought = Bought(expected_units * UNIT, float(units * UNIT), UNIT)
        return step(
            Control(), 0, 0, Pace(10**9, 1_000.0, 0.0, 1e9, 86_400.0), MIDNIGHT + 1_000, Law(), bought
        ).value_ratio

    assert ratio(0, 1) == pytest.approx(1.0, abs=0.05)
    assert ratio(3, 1) == pytest.approx(1.0, abs=0.1)
    assert ratio(500, 1_000) == pytest.approx(0.5, abs=0.02)


def test_a_stuck_exchange_does_not_open_the_throttle() -> None:
    stuck = range(MIDNIGHT + 9 * HOUR, MIDNIGHT + 9 * HOUR + HOUR // 2)
    market = Market(busy(6.0), first_price=False, stuck=lambda now_ms: now_ms in stuck)
    budget = int(supply(market, 1.0) / 8)
    trace = run(market, daily(lambda _: budget), budget, MIDNIGHT, MIDNIGHT + DAY, 5_000, unit_micros=UNIT)
    rows = range(9 * HOUR // 5_000, (9 * HOUR + HOUR // 2) // 5_000)
    before = trace.controls[rows[0] - 1].level
    assert max(trace.controls[row].level for row in rows) <= before + Law().unanswered_rise + Law().unanswered_rise_hour
    assert trace.gaps(budget).max() < 0.04
    assert trace.spent[-1] == pytest.approx(budget, rel=0.01)


def test_traffic_lost_for_an_hour_is_caught_up_without_a_burst() -> None:
    lost = range(MIDNIGHT + 9 * HOUR, MIDNIGHT + 10 * HOUR)
    market = Market(lambda now_ms: 0.0 if now_ms in lost else busy(6.0)(now_ms), first_price=False)
    budget = int(supply(market, 1.0) / 6)
    trace = run(market, daily(lambda _: budget), budget, MIDNIGHT, MIDNIGHT + DAY, 5_000, unit_micros=UNIT)
    back = 10 * HOUR // 5_000
    assert trace.gaps(budget)[back] < -0.02
    minutes = 600_000 // 5_000
    plan_rate = trace.planned[back + minutes] - trace.planned[back]
    assert trace.spent[back + minutes] - trace.spent[back] < 2.6 * plan_rate
    assert abs(trace.gaps(budget)[13 * HOUR // 5_000]) < 0.02
    assert trace.gaps(budget).max() < 0.02


@pytest.mark.parametrize("change", [0.4, 0.8, 1.5])
def test_a_budget_changed_at_noon_is_followed(change: float) -> None:
    market = Market(busy(6.0), first_price=False)
    before = int(supply(market, 1.0) / 6)
    after = int(before * change)
    noon = MIDNIGHT + 12 * HOUR
    plan_at = daily(lambda now_ms: before if now_ms < noon else after)
    trace = run(market, plan_at, max(before, after), MIDNIGHT, MIDNIGHT + DAY, 5_000, unit_micros=UNIT)
    at_noon = trace.spent[12 * HOUR // 5_000]
    at_end = trace.spent[-1]
    if after < at_noon:  # below what is spent: it tails off, and the leases stop it at once
        assert at_end - at_noon < 0.06 * before
    else:
        assert at_end == pytest.approx(after, rel=0.02)


def test_midnight_begins_the_next_day_on_plan() -> None:
    market = Market(busy(6.0), first_price=False)
    budget = int(supply(market, 1.0) / 6)
    spent_at_midnight: dict[int, int] = {}

    def plan_at(now_ms: int, spent: int) -> Plan:
        day = (now_ms - MIDNIGHT) // DAY
        known = spent_at_midnight.setdefault(day, spent)
        found = plan(
            Budget(daily_micros=budget), Flight(start_ms=MIDNIGHT), (), "UTC", PacingMode.EVEN, CURVE, known, now_ms
        )
        assert found is not None
        return found

    trace = run(market, plan_at, 3 * budget, MIDNIGHT, MIDNIGHT + 2 * DAY, 5_000, unit_micros=UNIT)
    for hour, (spent, planned) in enumerate(at_hours(trace, 5_000), 1):
        assert abs(spent - planned) <= 0.02 * budget, hour
    levels = np.array([control.level for control in trace.controls])
    midnight = DAY // 5_000
    assert abs(levels[midnight + 60] - levels[midnight - 60]) < 0.5
