"""The controller against a simulated market: it delivers to plan, at the scale of minutes and of days."""

from collections.abc import Callable
from math import inf, pi, sin
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.catalog.terms import Budget, Daypart, Flight, PacingMode
from dsp.kernel.clock import MS_PER_HOUR
from dsp.pacing.controller import Control, Controls, Law, decode, encode, hold, step
from dsp.pacing.plan import Pace, Plan, plan
from tests.unit.pacing.market import Market, run

MIDNIGHT = 1_748_822_400_000  # a Monday, UTC
HOUR = MS_PER_HOUR


def planner(budget: int, end_ms: int, **terms: Any) -> Callable[[int, int], Plan]:
    """Return the plan of a flight within one UTC day."""

    def plan_at(now_ms: int, spent: int) -> Plan:
        found = plan(
            Budget(total_micros=budget),
            Flight(start_ms=MIDNIGHT, end_ms=end_ms),
            terms.get("dayparts", ()),
            "UTC",
            terms.get("mode", PacingMode.EVEN),
            terms.get("curve", ()),
            0,
            now_ms,
        )
        assert found is not None
        return found

    return plan_at


def supply(market: Market, seconds: int) -> float:
    """Return what all auctions would cost at full multiplier: the most that could be spent."""
    sample = Market(lambda _: 20_000.0, seed=99).costs(0, 10.0, Control()).sum() / 200_000
    return float(sample * sum(market.rate(MIDNIGHT + 1_000 * second) for second in range(seconds)))


@pytest.mark.parametrize("times", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("delay_ms", [300, 2_500])
def test_a_flight_of_two_minutes_follows_its_plan(times: float, delay_ms: int) -> None:
    market = Market(lambda _: 80.0, billing_delay_ms=delay_ms)
    budget = int(supply(market, 120) / times)
    end = MIDNIGHT + 120_000
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end + 10_000)
    assert trace.spent[-1] / budget == pytest.approx(1.0, abs=0.03)
    assert np.abs(trace.gaps(budget)[:120]).mean() < 0.05
    assert np.abs(trace.gaps(budget)[:120]).max() < 0.12


def test_a_day_of_rising_and_falling_traffic_follows_its_plan() -> None:
    market = Market(lambda now_ms: 4.0 * (1.0 + 0.6 * sin(2 * pi * (now_ms - MIDNIGHT) / (24 * HOUR))))
    budget = int(supply(market, 24 * 3_600) / 4)
    end = MIDNIGHT + 24 * HOUR
    trace = run(market, planner(budget, end - 1), budget, MIDNIGHT, end, step_ms=5_000)
    assert trace.spent[-1] / budget == pytest.approx(1.0, abs=0.01)
    assert np.abs(trace.gaps(budget)).max() < 0.03
    # Money is dearest to place where traffic is thin: there the controller bids up, and not at the peak.
    multipliers = np.array([control.multiplier for control in trace.controls])
    hours = len(multipliers) // 24
    assert multipliers[17 * hours : 19 * hours].mean() > 1.5 * multipliers[5 * hours : 7 * hours].mean()


def test_money_follows_traffic_when_the_plan_knows_it() -> None:
    curve = tuple(1.0 + 0.8 * sin(2 * pi * hour / 24) for hour in range(24))
    market = Market(lambda now_ms: 4.0 * curve[(now_ms - MIDNIGHT) // HOUR % 24])
    budget = int(supply(market, 24 * 3_600) / 4)
    end = MIDNIGHT + 24 * HOUR
    trace = run(market, planner(budget, end - 1, curve=curve), budget, MIDNIGHT, end, step_ms=5_000)
    assert trace.spent[-1] / budget == pytest.approx(1.0, abs=0.01)
    settled = [control.multiplier for control in trace.controls[len(trace.controls) // 8 :]]
    assert np.std(settled) / np.mean(settled) < 0.12


def test_a_sudden_loss_of_traffic_releases_the_brake_and_is_made_up_for() -> None:
    lost = range(MIDNIGHT + 50_000, MIDNIGHT + 75_000)
    market = Market(lambda now_ms: 2.0 if now_ms in lost else 120.0)
    end = MIDNIGHT + 180_000
    budget = int(supply(market, 180) / 4)
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end + 10_000)
    assert trace.controls[74].multiplier > 1.5 * trace.controls[48].multiplier
    assert trace.gaps(budget)[76] < -0.08
    assert trace.spent[-1] / budget == pytest.approx(1.0, abs=0.03)
    assert trace.gaps(budget).max() < 0.08  # what comes back is not met at full speed


def test_too_little_traffic_releases_it_to_the_full() -> None:
    market = Market(lambda _: 20.0)
    end = MIDNIGHT + 120_000
    budget = int(supply(market, 120) * 2)
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end)
    assert all(control.multiplier == 1.0 for control in trace.controls[30:])


def test_a_flood_of_cheap_traffic_is_bought_cheaply() -> None:
    """Rivals bid a sixtieth of the value: so does the controller, by and by, and buys what is cheapest of all."""
    market = Market(lambda _: 60.0, rival_cpm=0.05)
    end = MIDNIGHT + HOUR
    budget = 3_600_000
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end + 10_000, unit_micros=500_000)
    assert trace.spent[-1] / budget == pytest.approx(1.0, abs=0.03)
    assert max(control.multiplier for control in trace.controls[1_200:3_500]) < 0.03
    assert trace.value[-1] > 40 * trace.spent[-1]
    assert np.abs(trace.gaps(budget)[2_900:]).max() < 0.04  # what was spent in the first seconds is paid back


@pytest.mark.parametrize("seconds", [240, 3_600])
@pytest.mark.parametrize("value_spread", [0.0, 0.3])
def test_where_everything_costs_the_floor_lots_are_drawn(seconds: int, value_spread: float) -> None:
    """No multiplier buys a part of impressions that have one price and one value."""
    market = Market(lambda _: 100.0, floor_cpm=1.0, rival_cpm=0.1, value_spread=value_spread)
    end = MIDNIGHT + 1_000 * seconds
    budget = int(100 * seconds * 1_000 / 20)
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end + 10_000)
    assert trace.spent[-1] / budget == pytest.approx(1.0, abs=0.03)
    assert np.abs(trace.gaps(budget)[seconds // 2 :]).max() < 0.05
    settled = [control.multiplier for control in trace.controls[seconds // 2 : seconds * 9 // 10]]
    assert np.std(settled) < 0.35 * np.mean(settled)


def test_a_cold_start_opens_up_without_a_burst() -> None:
    market = Market(lambda _: 400.0, billing_delay_ms=2_000)
    end = MIDNIGHT + 120_000
    budget = int(supply(market, 120) / 15)
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end)
    assert trace.gaps(budget)[:20].max() < 0.1
    assert trace.spent[25] > 0.1 * budget


def test_a_long_day_begins_wide_open() -> None:
    assert step(None, 0, 0, Pace(0, 10.0, 0.0, 1e9, 86_400.0), MIDNIGHT, Law()).multiplier == 1.0
    assert step(None, 0, 0, Pace(0, 10.0, 0.0, 1e9, 120.0), MIDNIGHT, Law()).multiplier == pytest.approx(0.1)
    market = Market(lambda _: 200.0)
    budget = int(supply(market, 3_600) * 24 / 50)
    end = MIDNIGHT + 24 * HOUR
    trace = run(market, planner(budget, end), budget, MIDNIGHT, MIDNIGHT + HOUR)
    assert trace.gaps(budget).max() < 0.03


@pytest.mark.parametrize("hours", [(0, 24), (9, 17)])
def test_a_flight_known_the_day_before_begins_as_open_as_one_that_was_not(hours: tuple[int, int]) -> None:
    parts = tuple(Daypart(weekday=weekday, start_hour=hours[0], end_hour=hours[1]) for weekday in range(7))
    plan_at = planner(1_000_000, MIDNIGHT + 24 * HOUR, dayparts=parts)
    held: Control | None = None
    begin = MIDNIGHT + hours[0] * HOUR
    for now_ms in range(MIDNIGHT - HOUR, begin + 10_000, 5_000):
        held = step(held, 0, 0, plan_at(now_ms, 0).pace(now_ms), now_ms, Law())
    assert held is not None
    assert held.multiplier == pytest.approx(1.0, abs=0.05)


def test_a_restart_goes_on_where_the_controller_was() -> None:
    market, end = Market(lambda _: 80.0), MIDNIGHT + 120_000
    budget = int(supply(market, 120) / 3)

    def through_the_blob(now_ms: int, control: Control) -> Control:
        return decode(encode(Controls(at_ms=now_ms, line_items={1: control}))).line_items[1]

    plain = run(market, planner(budget, end), budget, MIDNIGHT, end)
    again = run(Market(lambda _: 80.0), planner(budget, end), budget, MIDNIGHT, end, restart=through_the_blob)
    assert plain.controls == again.controls


def test_outside_dayparts_the_level_waits() -> None:
    hour = (Daypart(weekday=0, start_hour=0, end_hour=1), Daypart(weekday=0, start_hour=3, end_hour=4))
    plan_at = planner(10_000_000, MIDNIGHT + 24 * HOUR, dayparts=hour)
    before = Control(level=-1.0, at_ms=MIDNIGHT + HOUR, spent_micros=5_000_000)
    pause = MIDNIGHT + 2 * HOUR
    assert plan_at(pause, 0).pace(pause).rate_micros_second == 0.0
    after = step(before, 5_000_000, 9, plan_at(pause, 0).pace(pause), pause, Law())
    assert (after.level, after.at_ms) == (-1.0, pause)


def test_what_may_be_spent_at_once_is_not_held() -> None:
    after = step(Control(level=-2.0), 0, 0, Pace(1_000, inf, 1e3, 0.0, 86_400.0), MIDNIGHT, Law())
    assert after.multiplier == 1.0


@pytest.mark.parametrize(
    ("spent", "rest", "urgency"),
    [
        (50_000, 50_000.0, 1.0),
        (40_000, 50_000.0, 1.2),
        (60_000, 50_000.0, 0.8),
        (0, 10_000.0, 2.0),
        (99_000, 0.0, 0.25),
    ],
)
def test_what_chance_spent_is_put_right_by_what_is_left(spent: int, rest: float, urgency: float) -> None:
    before = Control(level=-1.0, spent_micros=spent, at_ms=MIDNIGHT, level_answered=-0.5)
    after = step(before, spent, 9, Pace(50_000, 1.0, 50_000.0, rest, 86_400.0), MIDNIGHT + 1_000, Law())
    assert after.urgency == pytest.approx(urgency)
    assert after.multiplier == pytest.approx(np.exp(after.level) * urgency, rel=1e-9)


def test_coming_back_to_plan_scales_bids_at_once_and_is_not_learned() -> None:
    law = Law()
    before = Control(level=-1.0, spent_micros=50_000, impressions=500, cost_micros=100.0, at_ms=MIDNIGHT)
    behind = step(before, 50_000, 500, Pace(60_000, 1.0, 60_000.0, 26_400.0, 86_400.0), MIDNIGHT + 1_000, law)
    assert behind.recovery == law.recovery_max
    assert behind.level == pytest.approx(-1.0 + np.log(law.recovery_max), abs=0.01)
    on_plan = step(behind, 60_001, 600, Pace(60_001, 1.0, 60_001.0, 26_399.0, 86_400.0), MIDNIGHT + 10**7, law)
    assert on_plan.recovery == 1.0
    ahead = step(before, 50_000, 500, Pace(40_000, 1.0, 40_000.0, 46_400.0, 86_400.0), MIDNIGHT + 1_000, law)
    assert ahead.recovery == law.recovery_min
    assert ahead.level == pytest.approx(-1.0 + np.log(law.recovery_min), abs=0.01)
    within = step(before, 50_000, 500, Pace(50_240, 1.0, 50_240.0, 36_160.0, 86_400.0), MIDNIGHT + 1_000, law)
    assert within.recovery == 1.0  # chance: the rest of the day puts it right
    hurried = step(behind, 50_000, 500, Pace(86_400, inf, 8.6e4, 0.0, 86_400.0), MIDNIGHT + 2_000, law)
    assert hurried.recovery == hurried.urgency == 1.0


def test_while_nothing_is_bought_what_presses_now_goes_before_what_is_learned() -> None:
    """Or the level would have to unlearn after every outage what nobody had answered."""
    law = Law()
    before = Control(level=-1.0, level_answered=-1.0, spent_micros=50_000, impressions=500, cost_micros=100.0)
    for second in range(1, 3_600):
        now_ms = second * 1_000
        before = step(before, 50_000, 500, Pace(51_000 + second, 1.0, 51_000.0, 33_000.0, 86_400.0), now_ms, law)
        assert before.level_now <= -1.0 + law.unanswered_rise + law.unanswered_rise_hour
    assert before.urgency > 1.1
    assert before.level - np.log(before.recovery) < -1.0 + law.unanswered_rise / 2


def test_the_last_money_goes_for_what_comes_and_teaches_nothing() -> None:
    law = Law()
    before = Control(level=-3.0, spent_micros=99_500, impressions=100, cost_micros=1_000.0, at_ms=MIDNIGHT)
    early = step(before, 99_500, 100, Pace(97_000, 0.01, 97_000.0, 3_000.0, 86_400.0), MIDNIGHT + 1_000, law)
    assert early.urgency < 1.0
    last = step(before, 99_500, 100, Pace(99_690, 0.01, 99_690.0, 310.0, 86_400.0), MIDNIGHT + 1_000, law)
    assert last.urgency == pytest.approx(50.0)
    assert last.level == -3.0
    assert last.multiplier == 1.0  # and yet nothing is bought above its worth


def test_one_impression_hardly_moves_a_budget_of_a_few_dozen() -> None:
    """The plan's money of ten minutes is a hundredth of an impression's cost here."""
    before = Control(level=-1.0, spent_micros=50_000, impressions=50, cost_micros=1_000.0, at_ms=MIDNIGHT)
    pace = Pace(50_500, 0.02, 50_500.0, 1_000.0, 86_400.0)
    after = step(before, 51_000, 51, pace, MIDNIGHT + 1_000, Law())
    assert -1.02 < after.level < -1.0 - 1 / 60
    assert after.cost_micros == pytest.approx(1_000.0)
    dearer = step(before, 53_000, 51, pace, MIDNIGHT + 1_000, Law())
    assert dearer.cost_micros == pytest.approx(1_040.0)


def test_the_tighter_of_line_item_and_campaign_is_obeyed() -> None:
    own = Control(level=-0.5)
    assert hold(own, 0.0, Law()).multiplier == pytest.approx(np.exp(-0.5))
    assert hold(own, -1.0, Law()).multiplier == pytest.approx(np.exp(-1.0))
    deep = hold(own, -3.0, Law())
    assert deep.multiplier == pytest.approx(np.exp(-3.0))
    assert deep.level == -0.5  # its own state is not the campaign's


@pytest.mark.parametrize("blob", [b"", b"\x93", b"\x81\xa5at_ms\xa1x", b"{}"])
def test_rubbish_is_no_controls(blob: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(blob)


@given(
    level=st.floats(-20, 1),
    spent=st.integers(0, 10**15),
    before_spent=st.integers(0, 10**15),
    planned=st.integers(0, 10**15),
    rate=st.one_of(st.just(0.0), st.just(inf), st.floats(1e-9, 1e12)),
    day_seconds=st.floats(0, 1e6),
    elapsed_ms=st.integers(-(10**6), 10**9),
    today=st.floats(0, 1e15),
    rest=st.floats(0, 1e15),
    impressions=st.integers(0, 10**9),
)
def test_whatever_comes_the_control_is_within_its_bounds(
    level: float,
    spent: int,
    before_spent: int,
    planned: int,
    rate: float,
    day_seconds: float,
    elapsed_ms: int,
    today: float,
    rest: float,
    impressions: int,
) -> None:
    before = Control(level=level, at_ms=MIDNIGHT, spent_micros=before_spent, cold=True)
    law = Law()
    pace = Pace(planned, rate, today, rest, day_seconds)
    after = step(before, spent, impressions, pace, MIDNIGHT + elapsed_ms, law)
    assert law.multiplier_min <= after.multiplier <= 1.0
