"""Blending: better parts weigh more, no part weighs less than nothing, and predictions are made before outcomes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.evaluation.metrics import losses
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import sigmoid
from models.training import blend
from models.training.rows import Rows

SPEC = FeatureSpec(
    request_columns=("exchange",),
    ad_columns=("campaign",),
    groups=(Group(name="exchange", request=("exchange",)), Group(name="campaign", ad=("campaign",))),
    hierarchy=(Group(name="campaign", ad=("campaign",)),),
    calibrate_by=(Group(name="exchange", request=("exchange",)), Group(name="campaign", ad=("campaign",))),
)


def made(count: int, seed: int = 1) -> tuple[Rows, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    requests, ads = rng.integers(1, 4, (count, 1)), rng.integers(1, 6, (count, 1))
    logits = rng.normal(-2.5, 1.0, count)
    at_ms = np.arange(count) * 5 * 86_400_000 // count
    return Rows(at_ms, requests, ads, rng.random(count) < sigmoid(logits), np.ones(count)), logits


def loss(predicted: NDArray[np.float64], rows: Rows) -> float:
    return float(losses(predicted, rows.labels).mean())


def test_parts_that_err_apart_are_better_together() -> None:
    rows, logits = made(40_000)
    rng = np.random.default_rng(9)
    parts = {"a": logits + rng.normal(0, 0.7, 40_000), "b": logits + rng.normal(0, 0.7, 40_000)}
    half, rest = slice(0, 20_000), slice(20_000, None)
    found = blend.fit({name: part[half] for name, part in parts.items()}, rows[half], SPEC)
    later = rows[rest]
    both = loss(found({name: part[rest] for name, part in parts.items()}, later.requests, later.ads), later)
    for name, part in parts.items():
        alone = blend.fit({name: part[half]}, rows[half], SPEC)
        assert alone.weights == {name: 1.0}
        assert both < loss(alone({name: part[rest]}, later.requests, later.ads), later) - 0.001
    assert found.weights["a"] == pytest.approx(0.5, abs=0.1)


def test_noise_and_the_contrary_weigh_nothing() -> None:
    rows, logits = made(20_000)
    noise = np.random.default_rng(3).normal(-2.5, 1.0, 20_000)
    weights = blend.fit({"good": logits, "noise": noise, "contrary": -5.0 - logits}, rows, SPEC).weights
    assert weights["good"] > 0.95
    assert min(weights.values()) >= 0.0
    assert sum(weights.values()) == pytest.approx(1.0)


def test_few_rows_leave_weights_nearly_equal() -> None:
    rows, logits = made(40)
    weights = blend.fit({"a": logits, "b": logits * 0.9}, rows, SPEC).weights
    assert weights["a"] == pytest.approx(0.5, abs=0.15)


def test_sampled_rows_tell_no_more_of_weights_than_as_many_rows() -> None:
    """Each of few rows stands for hundreds: which part was better on them is chance all the same."""
    rows, logits = made(100)
    noise = np.random.default_rng(1).normal(0.0, 0.7, (2, 100))
    parts = {"a": logits + noise[0], "b": logits + noise[1]}
    alike = blend.fit(parts, rows, SPEC).weights
    sampled = blend.fit(parts, replace(rows, weights=np.full(100, 300.0)), SPEC).weights
    assert sampled["a"] == pytest.approx(alike["a"], abs=0.02)


@pytest.mark.parametrize(("count", "least", "most"), [(100, 0.0, 0.15), (20_000, 0.3, 0.4)])
def test_a_network_has_to_show_first_that_it_helps(count: int, least: float, most: float) -> None:
    """All three err apart and alike: of many rows each has a third."""
    rows, logits = made(count)

    def weight(seed: int) -> float:
        noise = np.random.default_rng(seed).normal(0.0, 0.7, (3, count))
        parts = {name: logits + noise[place] for place, name in enumerate(("gbdt", "ftrl", "network"))}
        return blend.fit(parts, rows, SPEC).weights.get("network", 0.0)

    assert least <= np.mean([weight(seed) for seed in range(5)]) <= most


@dataclass
class Latest:
    """A model that says when the latest row it knows was."""

    at_ms: int

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full(len(ads), float(self.at_ms))


def test_a_walk_predicts_each_block_from_the_earlier_ones() -> None:
    rows, _ = made(100)
    edges = np.array([40, 70, 100])
    found = blend.walk(lambda known: Latest(int(known.at_ms[-1])), rows, edges)
    assert len(found) == 60
    assert (found[:30] == rows.at_ms[39]).all()
    assert (found[30:] == rows.at_ms[69]).all()
