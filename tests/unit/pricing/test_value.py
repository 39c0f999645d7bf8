"""The value of a thousand impressions under each goal."""

import numpy as np

from dsp.catalog.terms import GoalKind
from dsp.pricing.value import GOAL_CODES, value_micros_cpm


def test_value_by_goal() -> None:
    kinds = np.array([GOAL_CODES[kind] for kind in (GoalKind.CPM, GoalKind.CPC, GoalKind.CPA)], dtype=np.int8)
    target = np.array([2_000_000, 500_000, 20_000_000])
    value = value_micros_cpm(kinds, target, np.full(3, 0.01), np.full(3, 0.05))
    # A click in a hundred: ten clicks a thousand; a conversion in twenty clicks: half a conversion a thousand.
    np.testing.assert_allclose(value, [2_000_000, 5_000_000, 10_000_000])
    assert value.dtype == np.float64


def test_a_prediction_that_is_none_has_no_value() -> None:
    kinds = np.array([GOAL_CODES[GoalKind.CPC]], dtype=np.int8)
    assert np.isnan(value_micros_cpm(kinds, np.array([1]), np.array([np.nan]), np.array([0.5])))
