"""When predictions change, spend goes on as planned: the multiplier is scaled by what the change does to values."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from bidder.rescale import FADE_MS, Comparison, Rescaler
from bidder.state import RECENT_MAX, Scored, Served, Serving, ServingState
from dsp.catalog.terms import GoalKind
from dsp.pacing.controller import Control, Controls
from dsp.pricing.value import GOAL_CODES
from models.serving.predictor import RateTable, Scorer
from tests.unit.pacing.market import Market, run
from tests.unit.pacing.test_controller import HOUR, MIDNIGHT, planner, supply

NOW_MS = 1_750_000_000_000
IDS = np.array([70, 30, 90])


def served(kind: GoalKind = GoalKind.CPC) -> Served:
    """Return three line items with one creative each."""
    goals, targets = np.full(3, GOAL_CODES[kind], np.int8), np.full(3, 500_000)
    snapshot = SimpleNamespace(line_item_ids=IDS, goal_kind=goals, target_micros=targets)
    return cast(Served, SimpleNamespace(snapshot=snapshot))


def scorer(*rates: float) -> Scorer:
    table = RateTable(np.array(rates))
    return Scorer(repr(rates), table, table)


def measured(of: Served, before: Scorer, after: Scorer, impressions: int = 60) -> dict[int, float]:
    comparison, rows = Comparison(of, before, after), np.arange(2)
    for _ in range(impressions):
        comparison.add(Scored(of, np.zeros(2, np.int64), rows, rows))
    return comparison.ratios()


def test_each_line_items_values_are_compared_on_what_was_scored_lately() -> None:
    ratios = measured(served(), scorer(0.01, 0.01, 0.01), scorer(0.1, 0.001, 0.1))
    assert ratios == {70: pytest.approx(np.log(10), rel=0.05), 30: pytest.approx(-np.log(10), rel=0.05)}


def test_without_a_change_worth_speaking_of_nothing_is_scaled() -> None:
    before = scorer(0.01, 0.01, 0.01)
    assert measured(served(), before, scorer(0.0103, 0.0098, 1.0)) == {}
    assert measured(served(GoalKind.CPM), before, scorer(0.5, 0.5, 0.5)) == {}  # its value is not predicted
    controls = Controls(at_ms=NOW_MS, line_items={70: Control(multiplier=0.3)})
    rescaler = Rescaler()
    rescaler.learn({}, NOW_MS)
    assert rescaler.scaled(controls, IDS).multiplier.tolist() == [0.3, 1.0, 1.0]


@pytest.mark.filterwarnings("error")
def test_what_is_no_value_and_what_is_of_another_snapshot_is_passed_over() -> None:
    of = served()
    assert measured(of, scorer(0.0, np.nan, 1.0), scorer(0.1, 0.1, 1.0)) == {}
    assert measured(of, scorer(0.1, 0.1, 1.0), scorer(np.inf, -1.0, 1.0)) == {}
    assert measured(of, scorer(0.1, 0.1, 0.1), scorer(0.9, 0.9, 0.9), impressions=0) == {}
    comparison = Comparison(of, scorer(0.1), scorer(0.9))
    comparison.add(Scored(served(), np.zeros(2, np.int64), np.array([0]), np.array([0])))
    assert comparison.ratios() == {}


def test_one_impression_proves_less_than_many() -> None:
    before, after = scorer(0.01, 0.01, 0.01), scorer(0.1, 0.1, 0.1)
    assert measured(served(), before, after, impressions=1)[70] == pytest.approx(np.log(10) / 3)


def test_only_what_a_budget_holds_down_is_scaled_and_never_above_its_value() -> None:
    held, free = Control(multiplier=0.4, level=-0.9), Control(multiplier=1.0)
    controls = Controls(at_ms=NOW_MS, line_items={70: held, 30: free, 90: held})
    rescaler = Rescaler()
    rescaler.learn({70: np.log(10), 30: np.log(10), 90: -np.log(10)}, NOW_MS)
    assert rescaler.scaled(controls, IDS).multiplier.tolist() == pytest.approx([0.04, 1.0, 1.0])
    assert rescaler.scaled(None, IDS).multiplier.tolist() == [1.0, 1.0, 1.0]


def test_shifts_add_up_and_fade() -> None:
    rescaler = Rescaler()
    rescaler.learn({70: np.log(4)}, NOW_MS)
    rescaler.learn({70: np.log(2)}, NOW_MS)

    def scale(now_ms: int) -> float:
        controls = Controls(at_ms=now_ms, line_items={70: Control(multiplier=0.5)})
        return float(rescaler.scaled(controls, IDS[:1]).multiplier[0]) / 0.5

    assert scale(NOW_MS) == pytest.approx(1 / 8)
    assert scale(NOW_MS + FADE_MS) == pytest.approx(8 ** -np.exp(-1))
    assert scale(NOW_MS + 20 * FADE_MS) == pytest.approx(1.0)
    assert scale(NOW_MS - HOUR) == pytest.approx(1 / 8)  # a clock that went back makes it no stronger


def test_what_was_scored_is_remembered_for_one_snapshot_and_not_for_ever() -> None:
    serving, of = Serving(), served()
    for _ in range(2 * RECENT_MAX):
        serving.recent.append(Scored(of, np.zeros(2, np.int64), np.array([0]), np.array([0])))
    assert len(serving.recent) == RECENT_MAX
    one = scorer(0.1)
    snapshots = (cast(Served, SimpleNamespace(snapshot=SimpleNamespace(line_items=()))) for _ in range(2))
    for snapshot in snapshots:
        state = ServingState(
            served=snapshot, controls=Rescaler().scaled(None, IDS), controls_at_ms=0, predictor=one, prior=one
        )
        serving.swap(state)
    assert not serving.recent


@pytest.mark.parametrize("jump", [10.0, 0.1])
@pytest.mark.parametrize(("seconds", "step_ms", "rate"), [(120, 1_000, 80.0), (86_400, 10_000, 3.0)])
def test_a_tenfold_jump_of_all_values_keeps_spend_on_plan(jump: float, seconds: int, step_ms: int, rate: float) -> None:
    """The same market, with the values ten times as large, or as small, from the middle of the flight on."""
    rescaler, middle, end = Rescaler(), MIDNIGHT + 500 * seconds, MIDNIGHT + 1_000 * seconds
    base = Market(lambda _: rate, value_cpm=3.0 if jump > 1.0 else 30.0)
    budget = int(supply(base, seconds) / 4)

    class Jumping(Market):
        def wins(self, now_ms: int, length: float, control: Control) -> tuple[np.ndarray, np.ndarray]:
            if now_ms == middle:
                self.value_cpm *= jump
                after = scorer(*[0.01 * jump] * 3)
                rescaler.learn(measured(served(), scorer(0.01, 0.01, 0.01), after), now_ms)
            controls = rescaler.scaled(Controls(at_ms=now_ms, line_items={70: control}), IDS[:1])
            return super().wins(now_ms, length, Control(multiplier=float(controls.multiplier[0])))

    market = Jumping(base.rate, value_cpm=base.value_cpm)
    steady = run(base, planner(budget, end), budget, MIDNIGHT, end, step_ms)
    trace = run(market, planner(budget, end), budget, MIDNIGHT, end, step_ms)
    half = len(trace.spent) // 2
    assert np.abs(trace.gaps(budget)[half:] - steady.gaps(budget)[half:]).max() < 0.02
