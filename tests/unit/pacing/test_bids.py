"""What pacing leaves of bids: below floors by lot, near the end of the money by what is left, else the multiplier."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsp.pacing.bids import LEFT_AGE_MS_MAX, STEEPNESS, pace, thin
from dsp.pacing.columns import ControlColumns
from dsp.pacing.dual import concave_bid
from tests.lots import LOTS

NOW_MS = 1_750_000_000_000
CPM = 1_000_000


def paced(
    value: float, multiplier: float, floor: int = 0, bid_min: int = 0, left: float = np.inf, lot: int = 1
) -> float:
    """Return what is left of one bid, in micros per thousand."""
    controls = ControlColumns(np.array([multiplier]), np.array([left]), NOW_MS)
    one, terms = np.array([7]), (np.array([floor]), np.array([bid_min]))
    found = pace(np.array([value]), np.array([0]), controls, one, *terms, lot, NOW_MS)
    return value * float(found[0])


def test_the_multiplier_goes_down_as_far_as_lower_bids_can_win() -> None:
    for multiplier in (2.0, 1.0, 0.2, 0.01, 0.0003):
        assert paced(3.0 * CPM, multiplier) == pytest.approx(3.0 * CPM * multiplier)
        assert paced(3.0 * CPM, multiplier, floor=int(2.9 * CPM * min(multiplier, 1.0))) == pytest.approx(
            3.0 * CPM * multiplier
        )


@pytest.mark.parametrize("share", [0.9, 0.7, 0.4])
def test_below_the_floor_it_is_by_lot_at_the_floor(share: float) -> None:
    bids = [paced(4.0 * CPM, 0.25 * share, floor=CPM, lot=lot) for lot in LOTS[:4_000]]
    assert np.mean(np.array(bids) > 0.0) == pytest.approx(share**STEEPNESS, abs=0.025)
    assert {round(bid / CPM, 3) for bid in bids} == {0.0, 1.01}


def test_a_line_items_lowest_bid_is_a_floor_that_only_pacing_is_held_against() -> None:
    assert paced(2.0 * CPM, 1.0, bid_min=5 * CPM) == 2.0 * CPM  # worth less than its lowest bid, which it asked for
    bids = [paced(2.0 * CPM, 0.8, bid_min=5 * CPM, lot=lot) for lot in LOTS[:2_000]]
    assert np.mean(np.array(bids) > 0.0) == pytest.approx(0.8**STEEPNESS, abs=0.04)


def test_what_is_worth_less_than_the_floor_is_not_lifted_to_it() -> None:
    for lot in LOTS[:200]:
        assert paced(0.9 * CPM, 0.8, floor=CPM, lot=lot) <= 0.9 * CPM
    assert paced(0.9 * CPM, 1.2, floor=CPM) == pytest.approx(1.08 * CPM)  # the target's average allows it


def test_the_draw_is_the_lots_and_the_line_items_alone() -> None:
    share = 0.8
    controls = ControlColumns(np.full(40, 0.25 * share), np.full(40, np.inf), NOW_MS)
    ids, floors, none = np.arange(100, 140), np.full(40, CPM), np.zeros(40, dtype=np.int64)

    def passed(rows: NDArray[np.int64], lot: int) -> list[bool]:
        value, size = np.full(len(rows), 4.0 * CPM), len(rows)
        found = pace(value, rows, controls, ids, floors[:size], none[:size], lot, NOW_MS)
        return [bool(one) for one in found > 0.0]

    whole = passed(np.arange(40), 1)
    assert passed(np.arange(39, -1, -1), 1) == whole[::-1]
    assert passed(np.array([5, 9]), 1) == [whole[5], whole[9]]
    assert passed(np.arange(40), 2) != whole


def test_spend_falls_with_the_multiplier_without_a_jump_where_all_costs_the_floor() -> None:
    """What a controller needs of a market in which every impression has one value and one price."""
    shares = []
    for multiplier in np.geomspace(0.3, 0.05, 20):
        _, rates = thin(np.full(1, 4.0 * CPM), np.full(1, multiplier), np.full(1, CPM), np.zeros(1, dtype=np.int64))
        shares.append(1.0 if rates is None else float(rates[0]))
    steps = np.diff(np.log(shares)) / np.diff(np.log(np.geomspace(0.3, 0.05, 20)))
    assert (np.diff(shares) <= 0.0).all()
    assert steps.max() <= STEEPNESS * 1.001
    assert shares[-1] < 0.002


def test_a_bid_takes_ever_less_of_what_is_left_and_never_all() -> None:
    assert paced(3.0 * CPM, 0.5, left=1e15) == 1.5 * CPM
    assert paced(3.0 * CPM, 1.0, left=30.0 * CPM) == pytest.approx(concave_bid(3.0 * CPM, 1.0, 30.0 * CPM))
    assert paced(3.0 * CPM, 1.0, left=2.0 * CPM) < 2.0 * CPM
    assert paced(3_000.0 * CPM, 1.0, left=2.0 * CPM) == pytest.approx(2.0 * CPM)
    assert paced(3.0 * CPM, 1.0, left=0.0) == 0.0


def test_what_was_left_long_ago_is_forgotten() -> None:
    controls = ControlColumns(np.ones(1), np.zeros(1), NOW_MS)
    none, one = np.zeros(1, dtype=np.int64), np.array([0])
    for age_ms, expected in ((0, 0.0), (LEFT_AGE_MS_MAX - 1, 0.0), (LEFT_AGE_MS_MAX, 1.0)):
        found = pace(np.array([1.0 * CPM]), one, controls, one, none, none, 1, NOW_MS + age_ms)
        assert found.tolist() == [expected]


amounts = st.sampled_from([0.0, 1e-9, 1.0, 1e6, 3.3e7, 1e15, np.inf, np.nan, -5.0])
micros = st.sampled_from([0, 1, 10_000, 1_000_000, 10**10])


@given(
    rows=st.lists(
        st.tuples(amounts, st.floats(1e-4, 2.0), micros, micros, st.sampled_from([0.0, 1.0, 1e6, 1e12, np.inf])),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_comes_no_bid_is_above_what_pacing_a_floor_and_the_money_allow(
    rows: list[tuple[float, float, int, int, float]],
) -> None:
    value, multiplier, floors, bid_min, left = (np.array(column) for column in zip(*rows, strict=True))
    places = np.arange(len(rows))
    found = pace(value, places, ControlColumns(multiplier, left, NOW_MS), places, floors, bid_min, 1, NOW_MS)
    for number in places[np.isfinite(value)]:
        lifted = min(value[number], max(floors[number] * 1.01, bid_min[number]))
        bid = value[number] * found[number]
        assert bid <= max(value[number] * multiplier[number], lifted, 0.0) * (1 + 1e-9)
        assert bid <= left[number] * (1 + 1e-9)
        assert found[number] >= 0.0
