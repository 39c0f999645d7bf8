"""The landscape as it is served: grids that start at the floor, and probabilities that a hand can check."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.pricing.landscape import FLOOR_RATIOS, NOTHING, SENTINEL, Fields, Landscape, WinCurve, with_floors

NEAR = len(FLOOR_RATIOS)
POINTS = np.array([10_000, 50_000, 100_000, 2_000_000])
STEPS = NEAR + len(POINTS) + 1


def landscape(known: NDArray[np.int64], lifts: list[tuple[int, float]]) -> Landscape:
    """One field of one column. Its n-th known value lifts the score of step `lifts[n][0]` by log `lifts[n][1]`."""
    fields = Fields.of([(0, NOTHING)])
    keys = fields.keys(with_floors(known[:, np.newaxis], np.zeros(len(known), dtype=np.int64)))[:, 0]
    table = np.zeros((len(known) + 1, STEPS), dtype=np.float32)
    for row, number in enumerate(np.argsort(keys)):
        step, times = lifts[number]
        table[row, step] = np.log(times)
    keys = np.append(np.sort(keys), SENTINEL)
    return Landscape(fields, keys, table, np.zeros(STEPS, dtype=np.float32), POINTS, np.array([len(known)]))


LANDSCAPE = landscape(np.array([7, 8]), [(NEAR + 1, 6.0), (NEAR - 1, 5.0)])


def curve(value: int, floor: int) -> WinCurve:
    return LANDSCAPE.curve(np.array([value]), floor)


def test_without_a_floor_the_points_are_the_grid_and_unknown_values_change_nothing() -> None:
    prices, rates = curve(99, 0)
    assert prices.tolist() == POINTS.tolist()
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8])  # the rest is above every price


def test_a_known_value_moves_its_price() -> None:
    assert curve(7, 0).win_rate == pytest.approx([0.1, 0.7, 0.8, 0.9])


def test_a_floor_begins_the_grid_in_whole_ticks_and_takes_the_points_below_out() -> None:
    prices, rates = curve(8, 1_000_000)
    assert prices.tolist() == [1_000_000, 1_020_000, 1_050_000, 1_070_000, 1_100_000, 1_120_000, 1_150_000, 2_000_000]
    assert rates == pytest.approx(np.array([1, 2, 3, 4, 5, 6, 11, 12]) / 13)


def test_a_floor_off_the_ticks_is_never_undercut() -> None:
    prices, _ = curve(99, 12_345)
    assert prices.min() == 12_345
    assert (np.diff(prices) >= 0).all()


def test_a_floor_above_all_points_keeps_its_multiples() -> None:
    prices, rates = curve(99, 5_000_000)
    assert len(prices) == len(rates) == NEAR
    assert rates[-1] == pytest.approx(NEAR / (NEAR + 1))


def test_nothing_wins_below_the_grid_and_no_more_above_it() -> None:
    found = curve(99, 0)
    assert found.at(9_999.0) == 0.0
    assert found.at(10_000.0) == found.at(49_999.0) == pytest.approx(0.2)
    assert found.at(1e12) == pytest.approx(0.8)


def test_keys_of_one_context_are_those_of_many() -> None:
    fields = Fields.of([(0, NOTHING), (1, 0), (0, 1)])
    contexts = with_floors(np.array([[1, 2], [-5, 2**62]]), np.array([0, 70]))
    together = fields.keys(contexts)
    assert np.array_equal(together[1], fields.keys(contexts[1]))
    assert len(set(together.ravel().tolist())) == 6
