"""The landscape as it is served: grids that start at the floor, and probabilities that a hand can check."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.pricing.landscape import (
    FLOOR_LEVEL,
    FLOOR_RATIOS,
    NOTHING,
    SENTINEL,
    Fields,
    Landscape,
    WinCurve,
    floor_multiples,
)

NEAR = len(FLOOR_RATIOS)
POINTS = np.array([10_000, 50_000, 100_000, 2_000_000])
STEPS = NEAR + len(POINTS) + 1


def landscape(known: NDArray[np.int64], lifts: list[tuple[int, float]]) -> Landscape:
    """One field of one column. Its n-th known value lifts the score of step `lifts[n][0]` by log `lifts[n][1]`."""
    fields = Fields.of([(0, NOTHING)])
    keys = fields.keys(known[:, np.newaxis], np.zeros(len(known), dtype=np.int64))[:, 0]
    table = np.zeros((len(known) + 1, STEPS), dtype=np.float32)
    for row, number in enumerate(np.argsort(keys)):
        step, times = lifts[number]
        table[row, step] = np.log(times)
    keys = np.append(np.sort(keys), SENTINEL)
    return Landscape(fields, keys, table, POINTS, np.array([len(known)]))


LANDSCAPE = landscape(np.array([7, 8]), [(NEAR + 1, 6.0), (NEAR - 1, 5.0)])


def curve(value: int, floor: int) -> WinCurve:
    return LANDSCAPE.curve(np.array([value]), floor)


def test_without_a_floor_the_points_are_the_grid_and_unknown_values_change_nothing() -> None:
    prices, (rates, _) = curve(99, 0)
    assert prices.tolist() == POINTS.tolist()
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8])  # the rest is above every price


def test_a_known_value_moves_its_price() -> None:
    assert curve(7, 0).lines[0] == pytest.approx([0.1, 0.7, 0.8, 0.9])


def test_a_floor_begins_the_grid_in_whole_ticks_and_takes_the_points_below_out() -> None:
    prices, (rates, _) = curve(8, 1_000_000)
    assert prices.tolist() == [1_000_000, 1_020_000, 1_050_000, 1_070_000, 1_100_000, 1_120_000, 1_150_000, 2_000_000]
    assert rates == pytest.approx(np.array([1, 2, 3, 4, 5, 6, 11, 12]) / 13)


def test_a_floor_off_the_ticks_is_never_undercut() -> None:
    prices, _ = curve(99, 12_345)
    assert prices.min() == 12_345
    assert (np.diff(prices) >= 0).all()


def test_a_floor_above_all_points_keeps_its_multiples() -> None:
    prices, (rates, _) = curve(99, 5_000_000)
    assert len(prices) == len(rates) == NEAR
    assert rates[-1] == pytest.approx(NEAR / (NEAR + 1))


def test_nothing_wins_below_the_grid_and_no_more_above_it() -> None:
    found = curve(99, 0)
    assert found.at(9_999.0) == 0.0
    assert found.at(10_000.0) == found.at(49_999.0) == pytest.approx(0.2)
    assert found.at(1e12) == pytest.approx(0.8)


def test_keys_of_one_context_are_those_of_many() -> None:
    fields = Fields.of([(0, NOTHING), (1, 0), (0, 1), (FLOOR_LEVEL, NOTHING), (1, FLOOR_LEVEL)])
    contexts, floors = np.array([[1, 2], [-5, 2**62]]), np.array([0, 70])
    together = fields.keys(contexts, floors)
    assert np.array_equal(together[1], fields.context_keys(contexts[1]) + fields.floor_keys(floors[1:])[0])
    assert len(set(together.ravel().tolist())) == 10


def test_small_numbers_of_different_fields_do_not_share_keys() -> None:
    """Hours, positions and flags are all small: a row that two of them share would learn from both."""
    pairs = [*((column, NOTHING) for column in range(8)), (0, 1), (1, 0), (2, 3)]
    grid = np.array([[number] * 8 for number in range(-1, 100)])
    grid[:, 1] = grid[::-1, 0]
    keys = Fields.of(pairs).keys(grid, np.zeros(len(grid), dtype=np.int64))
    assert len(np.unique(keys)) == keys.size


def test_the_curve_is_the_softmax_of_the_sums_of_rows() -> None:
    """Against the definition, one context and one step at a time."""
    random = np.random.default_rng(2)
    fields = Fields.of([(0, NOTHING), (1, NOTHING), (FLOOR_LEVEL, NOTHING), (0, 1)])
    contexts, floors = random.integers(0, 6, (40, 2)), random.choice([0, 60_000, 1_000_000], 40)
    keys = np.append(np.unique(fields.keys(contexts[:20], floors[:20])), SENTINEL)
    known = len(keys) - 1
    table = random.normal(0.0, 3.0, (known + len(fields), STEPS)).astype(np.float32)
    found = Landscape(fields, keys, table, POINTS, np.arange(known, known + len(fields)))
    place = {int(key): number for number, key in enumerate(keys[:-1])}
    for context, floor in zip(contexts, floors.tolist(), strict=True):
        of_context = fields.keys(context[np.newaxis], np.array([floor]))[0].tolist()
        rows = [place.get(key, known + number) for number, key in enumerate(of_context)]
        prices, (rates, minus_costs) = found.curve(context, floor)
        near = NEAR if floor else 0
        steps = [
            *range(near),
            *(NEAR + number for number, point in enumerate(POINTS) if point > floor * 1.15),
            STEPS - 1,
        ]
        odds = np.exp([sum(float(table[row, step]) for row in rows) for step in steps])
        assert rates == pytest.approx(np.cumsum(odds)[:-1] / odds.sum(), rel=1e-5)
        assert minus_costs == pytest.approx(-prices * rates)


def test_scores_that_could_overflow_are_refused() -> None:
    high = np.full((1, STEPS), 701.0, dtype=np.float32)
    for table in (high, -high, np.full_like(high, np.nan)):
        with pytest.raises(ValueError, match="scores"):
            Landscape(Fields.of([(0, NOTHING)]), np.array([SENTINEL]), table, POINTS, np.array([0]))


def test_keys_are_those_that_landscapes_were_published_with() -> None:
    """A bundle holds keys that an earlier release has made: made otherwise, all it knows would look unknown."""
    keys = Fields.of([(0, NOTHING), (1, FLOOR_LEVEL)]).keys(np.array([[3, 5]]), np.array([1_000_000]))
    assert keys.tolist() == [[10366745158634438513, 10329574809009964125]]


def test_prices_just_above_a_floor_are_whole_cents_and_never_below_it() -> None:
    assert floor_multiples(np.array([1_000_000, 5_000])).tolist() == [
        [1_000_000, 1_020_000, 1_050_000, 1_070_000, 1_100_000, 1_120_000, 1_150_000],
        [5_000] * 7,
    ]
