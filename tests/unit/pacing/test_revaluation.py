"""Another predictor makes other values of the same impressions: levels that were learned on the old ones are scaled."""

from math import exp, inf, log, nan

import msgspec
import numpy as np
import pytest

from dsp.pacing import columns
from dsp.pacing.controller import Control, Controls, Law
from dsp.pacing.revaluation import Revalued, decode, encode, rescale
from tests.unit.pacing.market import Market, run
from tests.unit.pacing.test_controller import MIDNIGHT, planner, supply

LAW = Law()
CAMPAIGNS = {1: 10, 2: 10, 3: 20}


def told(before: str, after: str, **log_ratios: float) -> Revalued:
    """Say by how much line items' values grow; names are `of_` and their ids."""
    ratios = {int(name.removeprefix("of_")): ratio for name, ratio in log_ratios.items()}
    return Revalued(before=before, after=after, log_ratios=ratios)


def held(*levels: float, passed: tuple[str, ...] = ()) -> Controls:
    """Return controls whose line items, from 1 on, are held down by their budgets to these levels."""
    line_items = {
        number: Control(level=level, level_answered=level, mu_target=1.0) for number, level in enumerate(levels, 1)
    }
    return Controls(at_ms=5, line_items=line_items, predicted_by=passed)


class Revaluing(Market):
    """From an instant on all values are predicted as `factor` times what they were. What bids win is as it was."""

    def __init__(self, factor: float, at_ms: int, seconds: int, seed: int) -> None:
        super().__init__(lambda _: 80.0 if seconds < 1_000 else 3.0, value_cpm=3.0 if factor > 1 else 30.0, seed=seed)
        self.factor, self.at_ms, self.worth = factor, at_ms, 0  # as valued by the first predictor

    def wins(self, now_ms: int, seconds: float, control: Control) -> tuple[np.ndarray, np.ndarray]:
        factor = self.factor if now_ms >= self.at_ms else 1.0
        bids = msgspec.structs.replace(control, multiplier=control.multiplier * factor)
        costs, values = super().wins(now_ms, seconds, bids)
        self.worth += int(values.sum())
        return costs, (values * factor).astype(np.int64)


class Waking(Market):
    """Until an instant values are predicted so low that nothing is bought; then they are right, and supply is ample."""

    def __init__(self, factor: float, at_ms: int) -> None:
        super().__init__(lambda _: 80.0, billing_delay_ms=2_500)
        self.factor, self.at_ms = factor, at_ms

    def wins(self, now_ms: int, seconds: float, control: Control) -> tuple[np.ndarray, np.ndarray]:
        factor = 1.0 if now_ms >= self.at_ms else 1.0 / self.factor
        bids = msgspec.structs.replace(control, multiplier=control.multiplier * factor)
        costs, values = super().wins(now_ms, seconds, bids)
        return costs, (values * factor).astype(np.int64)


def flight(factor: float, seconds: int, step_ms: int, seed: int, tell: bool) -> tuple[float, int]:
    """Return how far spend was from plan at most after the jump, as a share of the budget, and the value bought."""
    middle, end = MIDNIGHT + 500 * seconds, MIDNIGHT + 1_000 * seconds
    market = Revaluing(factor, middle, seconds, seed)
    budget = int(supply(market, seconds) / 4)

    def listen(now_ms: int, control: Control) -> Control:
        if not tell or now_ms != middle:
            return control
        controls = rescale(Controls(at_ms=now_ms, line_items={1: control}), told("a", "b", of_1=log(factor)), {}, LAW)
        after = controls.line_items[1]
        return msgspec.structs.replace(after, multiplier=control.multiplier * exp(after.level - control.level))

    trace = run(market, planner(budget, end), budget, MIDNIGHT, end, step_ms, restart=listen)
    return float(np.abs(trace.gaps(budget)[len(trace.spent) // 2 :]).max()), market.worth


@pytest.mark.parametrize(
    ("seconds", "step_ms", "factor", "unheard"),
    [(120, 1_000, 3.0, 0.06), (120, 1_000, 10.0, 0.3), (120, 1_000, 0.1, 0.4), (86_400, 20_000, 10.0, 0.03)],
)
def test_spend_stays_on_plan_when_values_jump(seconds: int, step_ms: int, factor: float, unheard: float) -> None:
    left_gap, left_worth = flight(factor, seconds, step_ms, 1, tell=False)
    gap, worth = flight(factor, seconds, step_ms, 1, tell=True)
    assert left_gap > unheard  # or there would be nothing to put right
    assert gap < 0.025
    assert worth > left_worth


@pytest.mark.parametrize("seconds", [107, 600])
def test_who_could_not_buy_anything_does_not_buy_all_at_once(seconds: int) -> None:
    waking, end = MIDNIGHT + 250 * seconds, MIDNIGHT + 1_000 * seconds

    def ahead(tell: bool) -> tuple[float, float]:
        def listen(now_ms: int, control: Control) -> Control:
            if not tell or now_ms // 1_000 != waking // 1_000 - 1:  # as the bidder waits for the columns
                return control
            controls = Controls(at_ms=now_ms, line_items={1: control})
            return rescale(controls, told("a", "b", of_1=log(20.0)), {}, LAW).line_items[1]

        market = Waking(20.0, waking)
        budget = int(supply(market, seconds) / 30)
        trace = run(market, planner(budget, end), budget, MIDNIGHT, end + 10_000, restart=listen, unit_micros=2_000)
        return float(trace.gaps(budget)[:seconds].max()), trace.spent[-1] / budget

    assert ahead(tell=False)[0] > 0.04  # or there would be nothing to put right
    most, delivered = ahead(tell=True)
    assert most < 0.02
    assert delivered > 0.98


def test_who_is_known_to_have_grown_is_held_down_by_as_much_more() -> None:
    found = rescale(held(-0.5, -1.0), told("a", "b", of_1=log(5)), CAMPAIGNS, LAW)
    assert found.predicted_by == ("b",)
    assert found.line_items[1].level == pytest.approx(-0.5 - log(5))
    assert found.line_items[1].level_answered == pytest.approx(-0.5 - log(5))
    assert found.line_items[2] == held(-0.5, -1.0).line_items[2]  # nothing is known of it
    assert columns.paced(found).predicted_by == "b"
    assert columns.decode(columns.encode(columns.paced(found))).predicted_by == "b"


def test_many_bidders_tell_the_same_and_it_counts_once() -> None:
    once = rescale(held(-0.5), told("a", "b", of_1=1.0), CAMPAIGNS, LAW)
    again = rescale(once, told("a", "b", of_1=1.1), CAMPAIGNS, LAW)  # one that is slower, and saw other impressions
    assert again is once
    another = rescale(again, told("b", "c", of_1=0.5), CAMPAIGNS, LAW)
    assert another.line_items[1].level == pytest.approx(-2.0)
    late = rescale(another, told("a", "b", of_1=1.0), CAMPAIGNS, LAW)
    assert late is another


def test_a_champion_that_is_rolled_back_brings_its_level_back() -> None:
    there = rescale(held(-0.5, passed=("a",)), told("a", "b", of_1=1.0), CAMPAIGNS, LAW)
    back = rescale(there, told("b", "a", of_1=-1.0), CAMPAIGNS, LAW)
    assert back.line_items[1].level == pytest.approx(-0.5)
    assert back.predicted_by[-1] == "a"
    again = rescale(back, told("a", "b", of_1=1.0), CAMPAIGNS, LAW)
    assert again.line_items[1].level == pytest.approx(-1.5)


def test_where_a_word_was_lost_levels_stay_and_the_next_is_understood() -> None:
    lost = rescale(held(-0.5, passed=("a",)), told("b", "c", of_1=1.0), CAMPAIGNS, LAW)
    assert lost.line_items == held(-0.5).line_items
    assert rescale(lost, told("c", "d", of_1=1.0), CAMPAIGNS, LAW).line_items[1].level == pytest.approx(-1.5)


def test_predictors_gone_through_are_not_remembered_for_ever() -> None:
    controls = held(-0.5)
    for number in range(50):
        controls = rescale(controls, told(str(number), str(number + 1)), CAMPAIGNS, LAW)
    assert 2 < len(controls.predicted_by) < 20
    assert controls.predicted_by[-1] == "50"


@pytest.mark.parametrize("ratio", [2.0, -2.0])
def test_what_a_target_holds_is_left_to_the_target(ratio: float) -> None:
    """A conversion that is predicted oftener is worth bidding more for: the target is in money per conversion."""
    controls = held(log(2.0), log(1.01))
    tight = {**controls.line_items, 2: msgspec.structs.replace(controls.line_items[2], mu_target=100.0)}
    controls = msgspec.structs.replace(controls, line_items=tight)
    found = rescale(controls, told("a", "b", of_1=ratio, of_2=ratio), CAMPAIGNS, LAW)
    assert found.line_items == controls.line_items


def test_below_what_its_target_allows_it_is_the_budget_that_holds() -> None:
    """A target whose dual is 1 allows twice the value; without a target that is the value."""
    untargeted = {2: Control(level=-0.1), 3: Control(level=0.0)}
    controls = Controls(at_ms=5, line_items={**held(0.5).line_items, **untargeted})
    found = rescale(controls, told("a", "b", of_1=1.0, of_2=1.0, of_3=1.0), CAMPAIGNS, LAW)
    assert [found.line_items[number].level for number in (1, 2, 3)] == pytest.approx([-0.5, -1.1, 0.0])


def test_who_is_cold_is_held_whatever_the_target_would_allow() -> None:
    cold = Control(level=log(2.0), level_answered=log(2.0), cold=True)
    found = rescale(Controls(at_ms=5, line_items={1: cold}), told("a", "b", of_1=1.0), CAMPAIGNS, LAW)
    assert found.line_items[1].level == pytest.approx(log(2.0) - 1.0)


def test_a_campaign_follows_the_line_items_that_its_money_goes_to() -> None:
    controls = held(-0.1, -0.1, -0.1)
    rates = {1: 300.0, 2: 100.0, 3: 0.0}
    line_items = {
        number: msgspec.structs.replace(control, rate_micros_second=rates[number])
        for number, control in controls.line_items.items()
    }
    campaigns = {10: Control(level=-1.0), 20: Control(level=-1.0)}
    controls = msgspec.structs.replace(controls, line_items=line_items, campaigns=campaigns)
    found = rescale(controls, told("a", "b", of_1=1.0, of_3=1.0), CAMPAIGNS, LAW)
    assert found.campaigns[10].level == pytest.approx(-1.75)
    assert found.campaigns[20].level == -1.0  # nothing is bought for it


@pytest.mark.parametrize("recovery", [1.0, 0.7])
def test_a_level_keeps_within_its_bounds_whatever_is_told(recovery: float) -> None:
    """Bounds are on what was learned of the market, beside which the level holds the way back to plan."""
    controls = held(-8.0, -0.5)
    recovering = {
        number: msgspec.structs.replace(one, recovery=recovery) for number, one in controls.line_items.items()
    }
    controls = msgspec.structs.replace(controls, line_items=recovering)
    found = rescale(controls, told("a", "b", of_1=1e9, of_2=-1e9), CAMPAIGNS, LAW)
    assert found.line_items[1].level == pytest.approx(log(LAW.multiplier_min * recovery))
    assert found.line_items[2].level == pytest.approx(log(LAW.multiplier_max * recovery))


def test_a_level_is_moved_by_a_factor_of_twenty_at_most() -> None:
    found = rescale(held(-0.5, -4.0), told("a", "b", of_1=1e9, of_2=-1e9), CAMPAIGNS, LAW)
    assert [exp(found.line_items[number].level) for number in (1, 2)] == pytest.approx(
        [exp(-0.5) / 20, exp(-4.0) * 20], rel=0.01
    )


@pytest.mark.parametrize("ratio", [nan, inf, -inf])
def test_no_number_is_no_ratio(ratio: float) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(encode(told("a", "b", of_1=ratio, of_2=0.0)))


@pytest.mark.parametrize("blob", [b"", b"\x93", b"\x81\xa5at_ms\xa1x", b"{}"])
def test_rubbish_tells_nothing(blob: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(blob)


def test_what_was_told_arrives() -> None:
    said = told("a", "b", of_1=1.5, of_2=-0.25)
    assert decode(encode(said)) == said
