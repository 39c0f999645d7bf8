"""Metrics of parts of the rows: which are told apart, what bounds promise, and what must add up."""

import numpy as np
import pytest

from models.evaluation import slices
from models.evaluation.metrics import auc, measure


def test_poisson_bounds_are_those_of_the_tables() -> None:
    """Garwood's exact 95% intervals, as printed in Johnson, Kotz and Kemp's and other tables."""
    assert slices.poisson_bounds(0, 0.95) == pytest.approx((0.0, 3.6889), abs=1e-4)
    assert slices.poisson_bounds(10, 0.95) == pytest.approx((4.7954, 18.3904), abs=1e-4)


def test_a_calibrated_part_is_within_its_bounds_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(2_000):
        predicted = rng.uniform(0.002, 0.02, 1_000)
        low, high = slices.pcoc_bounds(predicted, rng.random(1_000) < predicted, np.ones(1_000), 0.9)
        assert low is not None
        inside.append(low <= 1.0 and (high is None or high >= 1.0))
    assert 0.89 < np.mean(inside) < 0.95  # exact bounds of a discrete count keep somewhat more than they promise


def test_a_row_that_weighs_more_does_not_tell_more() -> None:
    """Equal weights scale away; a click that outweighs all others leaves the sum uncertain."""
    predicted, labels = np.full(200, 0.1), np.arange(200) < 20
    once = slices.pcoc_bounds(predicted, labels, np.ones(200), 0.95)
    assert slices.pcoc_bounds(predicted, labels, np.full(200, 7.0), 0.95) == pytest.approx(once)
    # Clicks of 1 and 3 tell as much as (1 + 3)^2 / (1 + 9) = 1.6 equal ones of 2.5.
    kish = [2.5 * bound for bound in slices.poisson_bounds(1.6, 0.95)]
    assert slices.clicks_bounds(np.ones(2, np.bool_), np.array([1.0, 3.0]), 0.95) == pytest.approx(tuple(kish))
    uneven = np.where(np.arange(200) == 0, 100.0, 1.0)
    low, high = slices.clicks_bounds(labels, uneven, 0.95)
    assert high - low > 3 * np.subtract(*slices.clicks_bounds(labels, np.ones(200), 0.95)[::-1])


def test_without_clicks_there_is_an_upper_bound_of_them_alone() -> None:
    low, high = slices.pcoc_bounds(np.full(100, 0.02), np.zeros(100, np.bool_), np.ones(100), 0.95)
    assert low == pytest.approx(2.0 / 3.6889, abs=1e-4)
    assert high is None
    assert slices.pcoc_bounds(np.empty(0), np.empty(0, np.bool_), np.empty(0), 0.95) == (None, None)


def test_thin_values_are_one_part_and_every_row_is_in_one() -> None:
    rng = np.random.default_rng(1)
    keys = rng.choice([7, 8, 9, 10, 11], 5_000, p=[0.5, 0.3, 0.15, 0.04, 0.01])
    predicted = rng.uniform(0.01, 0.2, 5_000)
    labels = rng.random(5_000) < predicted
    found = slices.by_value(keys, predicted, labels, np.ones(5_000), clicks_min=30, count_max=2, confidence=0.95)
    assert [(part.value, part.parts) for part in found] == [(7, 1), (8, 1), (None, 3)]
    assert sum(part.metrics.rows for part in found) == 5_000
    assert sum(part.metrics.clicks for part in found) == labels.sum()
    first = keys == 7
    assert found[0].metrics == measure(predicted[first], labels[first])
    everything = slices.by_value(keys, predicted, labels, np.ones(5_000), clicks_min=0, count_max=9, confidence=0.95)
    assert [part.value for part in everything] == [7, 8, 9, 10, 11]


def test_gauc_does_not_reward_knowing_the_group() -> None:
    keys = np.repeat([1, 2], 100)
    labels = np.concatenate((np.arange(100) < 50, np.arange(100) < 10))
    by_group = np.where(keys == 1, 0.5, 0.1)
    weights = np.ones(200)
    assert auc(by_group, labels) > 0.6  # type: ignore[operator]
    assert slices.gauc(keys, by_group, labels, weights) == 0.5
    assert slices.gauc(keys, labels + 0.0, labels, weights) == 1.0
    assert slices.gauc(keys, by_group, np.zeros(200, np.bool_), weights) is None


def test_gauc_weighs_groups_by_rows() -> None:
    """Group 1, 300 rows, is ranked perfectly; group 2, 100 rows, the wrong way round."""
    keys = np.repeat([2, 1], [100, 300])
    labels = np.concatenate((np.arange(100) < 50, np.arange(300) < 50))
    predicted = np.where(keys == 1, labels + 0.0, 1.0 - labels)
    assert slices.gauc(keys, predicted, labels, np.ones(400)) == pytest.approx(0.75)


def test_curves_have_as_many_bins_as_clicks_allow() -> None:
    rng = np.random.default_rng(2)
    predicted = rng.uniform(0.01, 0.1, 4_000)
    labels = rng.random(4_000) < predicted
    assert len(slices.curve(predicted, labels, np.ones(4_000))) == 10
    few = slices.curve(predicted[:400], np.arange(400) < 35, np.ones(400))
    assert len(few) == 2
    assert sum(point.clicks for point in few) == 35
