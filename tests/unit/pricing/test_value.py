"""The value of a thousand impressions under each goal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.catalog.entities import ConversionRule
from dsp.catalog.terms import Goal, GoalKind
from dsp.pricing.value import GOAL_CODES, conversion_micros, unit_micros, value_micros_cpm

PROBABILITY = st.floats(0.0, 1.0)


def test_value_by_goal() -> None:
    kinds = np.array([GOAL_CODES[kind] for kind in (GoalKind.CPM, GoalKind.CPC, GoalKind.CPA)], dtype=np.int8)
    target = np.array([2_000_000, 500_000, 20_000_000])
    value = value_micros_cpm(kinds, target, np.full(3, 0.01), np.full(3, 0.05))
    # A click in a hundred: ten clicks a thousand; a conversion in twenty clicks: half a conversion a thousand.
    np.testing.assert_allclose(value, [2_000_000, 5_000_000, 10_000_000])
    assert value.dtype == np.float64


@given(st.lists(st.tuples(st.sampled_from(GoalKind), st.integers(0, 10**12), PROBABILITY, PROBABILITY), min_size=1))
def test_the_value_is_its_units_times_their_target_to_the_last_bit(
    rows: list[tuple[GoalKind, int, float, float]],
) -> None:
    kinds = np.array([GOAL_CODES[kind] for kind, *_ in rows], dtype=np.int8)
    targets, pctr, pcvr = (np.array(column) for column in zip(*(row[1:] for row in rows), strict=True))
    expected = []
    for kind, target, click, conversion in rows:
        units = {GoalKind.CPM: 1.0, GoalKind.CPC: click * 1_000.0}.get(kind, click * 1_000.0 * conversion)
        expected.append(units * target)
    assert value_micros_cpm(kinds, targets, pctr, pcvr).tolist() == expected


def test_a_prediction_that_is_none_has_no_value() -> None:
    kinds = np.array([GOAL_CODES[GoalKind.CPC]], dtype=np.int8)
    assert np.isnan(value_micros_cpm(kinds, np.array([1]), np.array([np.nan]), np.array([0.5])))


def test_a_return_of_four_times_the_cost_pays_a_quarter_of_a_conversion_s_value() -> None:
    goal = Goal(kind=GoalKind.ROAS, target_micros=4_000_000)
    assert unit_micros(goal, 30_000_000) == 7_500_000
    value = value_micros_cpm(
        np.array([GOAL_CODES[goal.kind]], dtype=np.int8), np.array([7_500_000]), np.array([0.01]), np.array([0.05])
    )
    # Half a conversion a thousand impressions, worth 15 units: at a cost of 3.75 units that is 400 %.
    np.testing.assert_allclose(value, [3_750_000])


@pytest.mark.parametrize("kind", [GoalKind.CPM, GoalKind.CPC, GoalKind.CPA])
def test_other_goals_name_the_cost_of_their_unit(kind: GoalKind) -> None:
    assert unit_micros(Goal(kind=kind, target_micros=500_000), 30_000_000) == 500_000


def test_a_conversion_is_worth_the_mean_of_the_rules_that_have_a_value() -> None:
    rules = [ConversionRule(id=n, name="r", advertiser_id=1, value_micros=v) for n, v in enumerate((10, None, 30))]
    assert conversion_micros(rules) == 20
    assert conversion_micros(rules[1:2]) == conversion_micros([]) == 0


@given(
    kind=st.sampled_from(GoalKind), target=st.integers(10_000, 10**9), worth=st.integers(10**5, 10**9),
    pctr=st.floats(0.001, 1.0), pcvr=st.floats(0.001, 1.0),
)  # fmt: skip
def test_bought_at_its_value_an_impression_is_at_its_target(
    kind: GoalKind, target: int, worth: int, pctr: float, pcvr: float
) -> None:
    unit = np.array([unit_micros(Goal(kind=kind, target_micros=target), worth)])
    codes = np.array([GOAL_CODES[kind]], dtype=np.int8)
    cost = float(value_micros_cpm(codes, unit, np.array([pctr]), np.array([pcvr]))[0])
    clicks = 1_000 * pctr
    if kind is GoalKind.ROAS:
        returned, wanted = clicks * pcvr * worth, cost * target / 1_000_000
        assert wanted <= returned * (1 + 1e-9)  # rounding never pays more
        assert returned - wanted <= clicks * pcvr * (target / 1_000_000 + 1)
    else:
        units = {GoalKind.CPM: 1.0, GoalKind.CPC: clicks, GoalKind.CPA: clicks * pcvr}[kind]
        assert cost / units == pytest.approx(target)
