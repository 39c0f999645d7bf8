"""Hashed logistic regression: what it learns, online as offline, and from rows sampled by label."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.evaluation.metrics import auc, measure
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import sigmoid
from models.training import ftrl
from models.training.rows import Rows
from models.training.weights import Sampling, recent, sampling

SPEC = FeatureSpec(
    request_columns=("site", "floor", "tag_1", "tag_2"),
    ad_columns=("advertiser",),
    groups=(
        Group(name="site", request=("site",)),
        Group(name="advertiser", ad=("advertiser",)),
        Group(name="tag", request=("tag_1", "tag_2")),
        Group(name="site_x_advertiser", request=("site",), ad=("advertiser",)),
    ),
    hierarchy=(),
    request_numbers=("floor",),
)
CONFIG = ftrl.FtrlConfig(bits=16, alpha=0.1, epochs=3)


def made(count: int, seed: int = 1) -> tuple[Rows, NDArray[np.float64]]:
    """Return rows whose clicks follow a pair of values and the magnitude of a number, and their true rates."""
    rng = np.random.default_rng(seed)
    requests = np.column_stack(
        [rng.integers(1, 8, count), 10 ** rng.integers(0, 6, count), rng.integers(0, 4, count), np.zeros(count)]
    ).astype(np.int64)
    ads = rng.integers(1, 4, (count, 1))
    rates = sigmoid(-3.0 + 2.0 * (requests[:, 0] % 3 == ads[:, 0] - 1) + 1.0 * (requests[:, 1] > 1_000))
    return Rows(np.arange(count) * 10, requests, ads, rng.random(count) < rates, np.ones(count)), rates


def test_it_learns_pairs_of_values_and_magnitudes() -> None:
    rows, _ = made(20_000)
    later, rates = made(20_000, seed=2)
    predicted = sigmoid(ftrl.fit(rows, SPEC, CONFIG).logits(later.requests, later.ads))
    best = auc(rates, later.labels)
    found = measure(predicted, later.labels)
    assert best is not None
    assert found.auc == pytest.approx(best, abs=0.01)
    assert found.pcoc == pytest.approx(1.0, abs=0.05)


def test_learning_online_goes_on_where_training_stopped() -> None:
    rows, _ = made(6_000)
    config = ftrl.FtrlConfig(bits=16, epochs=1, batch=100)
    whole = ftrl.fit(rows, SPEC, config)
    half = replace(ftrl.fit(rows[slice(0, 3_000)], SPEC, config), base=whole.base)
    # The base rate is the one thing that is not learned as rows come; with the same one all else is the same.
    begun = replace(half, sums=np.zeros_like(half.sums), squares=np.zeros_like(half.squares))
    begun.update(rows[slice(0, 3_000)])
    again = ftrl.restore(SPEC, config, begun.arrays())
    again.update(rows[slice(3_000, None)])
    assert np.allclose(again.sums, whole.sums, atol=1e-9)
    assert np.allclose(again.logits(rows.requests, rows.ads), whole.logits(rows.requests, rows.ads), atol=1e-6)
    assert not np.allclose(begun.sums, again.sums)


def test_arrays_of_another_form_are_refused() -> None:
    arrays = ftrl.fit(made(500)[0], SPEC, CONFIG).arrays()
    with pytest.raises(ValueError, match="16 bits"):
        ftrl.restore(SPEC, CONFIG, {**arrays, "sums": arrays["sums"][1:]})
    for broken in ({"squares": -1.0 - arrays["squares"]}, {"scalars": arrays["scalars"] * np.nan}):
        with pytest.raises(ValueError, match="no learning leaves"):
            ftrl.restore(SPEC, CONFIG, {**arrays, **broken})


def test_absent_members_of_a_set_tell_nothing_and_their_order_does_not_matter() -> None:
    rows, _ = made(2_000)
    model = ftrl.fit(rows, SPEC, CONFIG)
    swapped = rows.requests.copy()
    swapped[:, [2, 3]] = swapped[:, [3, 2]]
    assert np.allclose(model.logits(swapped, rows.ads), model.logits(rows.requests, rows.ads), atol=1e-12)


def test_rates_are_those_of_all_impressions_however_rows_were_sampled() -> None:
    rows, rates = made(60_000)
    rng = np.random.default_rng(5)
    kept = rows.labels | (rng.random(len(rows)) < 0.05)
    sampled = replace(rows, weights=np.where(rows.labels, 1.0, 20.0))[kept]
    model = ftrl.fit(sampled, SPEC, ftrl.FtrlConfig(bits=16, epochs=3))
    predicted = sigmoid(model.logits(rows.requests, rows.ads))
    assert predicted.mean() == pytest.approx(rates.mean(), rel=0.1)
    assert model.sampled != Sampling()


def test_older_rows_count_less_and_equal_weights_are_left_alone() -> None:
    rows, _ = made(100)
    rows = replace(rows, at_ms=np.arange(100) * 86_400_000)
    weights = recent(rows, 2.0).weights
    assert weights[-1] == 1.0
    assert weights[-3] == pytest.approx(0.5)
    assert recent(rows, 0.0) is rows
    assert sampling(rows) == Sampling()
    assert sampling(rows).offset == 0.0
    found = sampling(replace(rows, weights=np.where(rows.labels, 1.0, 30.0)))
    assert found.offset == pytest.approx(-np.log(30.0))
    assert (found.undo(replace(rows, weights=np.where(rows.labels, 1.0, 30.0))).weights == 1.0).all()


def test_what_is_recent_is_learned_where_rates_changed() -> None:
    rows, _ = made(10_000)
    days = np.arange(10_000) // 1_000 * 86_400_000
    changed = replace(rows, at_ms=days, labels=np.where(days < 5 * 86_400_000, rows.labels, ~rows.labels))
    slow, fast = (
        ftrl.fit(changed, SPEC, ftrl.FtrlConfig(bits=16, half_life_days=half_life)).logits(rows.requests, rows.ads)
        for half_life in (0.0, 0.5)
    )
    assert sigmoid(fast).mean() > sigmoid(slow).mean() + 0.1
