"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from models.evaluation.metrics import auc, losses, measure, reliability

PREDICTED = np.array([0.1, 0.4, 0.35, 0.8])
LABELS = np.array([False, False, True, True])


def test_by_hand() -> None:
    found = measure(PREDICTED, LABELS)
    expected = -(math.log(0.9) + math.log(0.6) + math.log(0.35) + math.log(0.8)) / 4
    assert found.log_loss == pytest.approx(expected)
    assert found.normalised_entropy == pytest.approx(expected / math.log(2))
    assert found.auc == pytest.approx(0.75)
    assert found.pcoc == pytest.approx(1.65 / 2)
    assert (found.rows, found.clicks) == (4, 2)
    assert sum(entry.rows for entry in found.reliability) == 4


def test_a_row_counts_as_often_as_it_weighs() -> None:
    rng = np.random.default_rng(2)
    predicted, weights = rng.uniform(0.01, 0.9, 500).round(2), rng.integers(1, 5, 500)
    labels = rng.random(500) < predicted
    found = measure(predicted, labels, weights.astype(np.float64))
    copies = np.repeat(np.arange(500), weights)
    expected = measure(predicted[copies], labels[copies])
    for name in ("log_loss", "normalised_entropy", "auc", "pcoc"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name
    assert found.ece == pytest.approx(expected.ece, abs=0.01)  # a heavy row is not parted between two bins
    assert (found.rows, found.clicks) == (500, labels.sum())


def test_auc_counts_ties_half_and_needs_both_labels() -> None:
    assert auc(np.full(4, 0.3), LABELS) == 0.5
    assert auc(PREDICTED, np.ones(4, dtype=np.bool_)) is None
    assert auc(-PREDICTED, LABELS) == pytest.approx(0.25)


def test_ece_is_zero_for_what_came_true_and_large_for_what_did_not() -> None:
    rng = np.random.default_rng(1)
    rates = rng.uniform(0.0, 0.2, 200_000)
    labels = rng.random(200_000) < rates
    right, wrong = measure(rates, labels), measure(rates + 0.1, labels)
    assert right.ece is not None
    assert wrong.ece is not None
    assert right.ece < 0.003
    assert wrong.ece == pytest.approx(0.1, abs=0.003)
    assert right.pcoc == pytest.approx(1.0, abs=0.02)
    predicted = [entry.predicted for entry in right.reliability]
    assert predicted == sorted(predicted)
    assert len(predicted) == 10


def test_nothing_and_certainty_have_finite_scores() -> None:
    empty = measure(np.empty(0), np.empty(0, dtype=np.bool_))
    assert (empty.rows, empty.clicks, empty.log_loss) == (0, 0, None)
    assert np.isfinite(losses(np.array([0.0, 1.0]), np.array([True, False]))).all()
    none = measure(np.array([0.1, 0.2]), np.zeros(2, dtype=np.bool_))
    assert (none.pcoc, none.auc, none.normalised_entropy) == (None, None, None)
    every = measure(np.array([0.1, 0.2]), np.ones(2, dtype=np.bool_))
    assert every.pcoc == pytest.approx(0.15)
    assert (every.auc, every.normalised_entropy) == (None, None)
    one = measure(np.array([0.5, 0.5]), np.array([True, False]))
    assert one.normalised_entropy == pytest.approx(1.0)


def test_a_heavy_row_is_in_the_part_where_its_middle_is() -> None:
    predicted, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])
    curve, share = reliability(predicted, labels, np.array([4.0, 3.0, 2.0, 1.0]), 2)
    assert [entry.rows for entry in curve] == [1, 3]
    assert [entry.clicks for entry in curve] == [0, 2]
    assert share == pytest.approx([0.4, 0.6])
