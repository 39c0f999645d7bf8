"""Drift: PSI by hand, what chance gives, and which kind of comparison a column gets."""

import math
from dataclasses import replace

import numpy as np
import pytest

from models.evaluation import drift
from models.evaluation.families import families
from models.features.columns import AD_COLUMNS, HISTORY_AGE_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.training.rows import Rows


def made(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    requests = rng.integers(0, 5, (count, len(REQUEST_COLUMNS)))
    requests[:, REQUEST_COLUMNS.index("floor_micros_cpm")] = rng.integers(0, 10**6, count)
    return Rows(
        np.arange(count),
        requests,
        rng.integers(1, 6, (count, len(AD_COLUMNS))),
        np.zeros(count, np.bool_),
        np.ones(count),
    )


def test_psi_by_hand() -> None:
    """Counts 30 and 70 become 50 and 50; half a row is added to each."""
    left, right = (30.5 / 101, 70.5 / 101), (0.5, 0.5)
    expected = sum((q - p) * math.log(q / p) for p, q in zip(left, right, strict=True))
    assert drift.psi(np.array([30, 70]), np.array([50, 50])) == pytest.approx(expected)
    assert drift.psi(np.array([30, 70]), np.array([60, 140])) == pytest.approx(0.0, abs=1e-4)


def test_a_hash_that_was_never_seen_counts_as_new_and_moves_the_index() -> None:
    before = np.repeat(np.array([11, 22], dtype=np.int64), 500)
    after = np.repeat(np.array([11, 22, 33], dtype=np.int64), [400, 400, 200])
    found = drift.values_without_order("domain", before, after)
    shares = np.array([[500.5, 500.5, 0.5], [400.5, 400.5, 200.5]])
    shares /= shares.sum(axis=1, keepdims=True)
    assert found.psi == pytest.approx(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    assert found.unseen == pytest.approx(0.2)
    assert found.psi > drift.LARGE


def test_numbers_are_compared_in_tenths() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=20_000)
    same, moved = (drift.values_with_order("x", before, rng.normal(shift, 1, 20_000)) for shift in (0.0, 0.5))
    assert same.psi < 3 * same.chance
    # Of two normals, in ten bins; the limit of fine bins is shift squared, 0.25.
    assert 0.20 < moved.psi < 0.26
    assert moved.unseen is None


def test_chance_is_what_no_change_gives_on_average() -> None:
    rng = np.random.default_rng(2)
    found = [drift.values_without_order("x", rng.integers(0, 10, 2_000), rng.integers(0, 10, 500)) for _ in range(200)]
    assert np.mean([each.psi for each in found]) == pytest.approx(np.mean([each.chance for each in found]), rel=0.1)


def test_a_bin_that_neither_side_fills_is_none() -> None:
    before, after = np.repeat(np.array([11, 22], dtype=np.int64), 4), np.repeat(np.array([11, 22], dtype=np.int64), 2)
    found = drift.values_without_order("domain", before, after)  # no value is beyond the most frequent ones
    assert found.chance == pytest.approx(1 / 8 + 1 / 4)
    assert found.psi == pytest.approx(0.0)


def test_how_long_ago_something_was_has_an_order() -> None:
    """Each age is a value that was never seen, and none differs from what was usual."""
    before, after = made(2_000, 1), made(2_000, 2)
    places = [REQUEST_COLUMNS.index(name) for name in HISTORY_AGE_COLUMNS]
    before.requests[:, places] = 2 * np.arange(2_000)[:, np.newaxis]
    after.requests[:, places] = 2 * np.arange(2_000)[:, np.newaxis] + 1
    (found,) = [each for each in drift.columns(before, after, PLATFORM) if each.name == "history_age_seconds"]
    assert found.unseen is None
    assert found.psi < drift.MODERATE


def test_the_column_that_moved_comes_first() -> None:
    before, after = made(4_000, 1), made(2_000, 2)
    moved = after.requests.copy()
    moved[:, REQUEST_COLUMNS.index("country")] = 99
    moved[:, REQUEST_COLUMNS.index("floor_micros_cpm")] //= 2
    found = drift.columns(before, replace(after, requests=moved), PLATFORM)
    assert [each.name for each in found[:2]] == ["country", "floor_micros_cpm"]
    assert found[0].unseen == 1.0
    assert found[1].unseen is None  # a price has an order: its halves are no new values
    assert all(each.psi < drift.MODERATE for each in found[2:])
    assert drift.columns(before, after[slice(0, 0)], PLATFORM) == []


def test_families_hold_every_column_once_and_sets_together() -> None:
    found = families(PLATFORM)
    assert sorted(place for family in found for place in family.request) == list(range(len(REQUEST_COLUMNS)))
    assert sorted(place for family in found for place in family.ad) == list(range(len(AD_COLUMNS)))
    by_name = {family.name: family for family in found}
    assert len(by_name) == len(found)
    assert len(by_name["segment"].request) == 6
    assert len(by_name["history_campaign"].request) == 6
    assert len(by_name["ad_category"].ad) == 2
    assert len(by_name["segment_count"].request) == 1
