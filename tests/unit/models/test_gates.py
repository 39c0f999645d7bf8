"""The gate: its error rates on models of known quality, and a sentence for each refusal."""

import numpy as np
import pytest

from models.evaluation import gates
from models.evaluation.gates import Difference, Limits, Pair, Slice
from models.evaluation.metrics import measure

ROWS = 2_000
FAIR = Limits(
    confidence=0.95, resamples=200, rows_min=300, clicks_min=30, log_loss_tolerance=0.0, pcoc_min=0.7, pcoc_max=1.4,
    slice_clicks_min=200, seed=7,
)  # fmt: skip


def world(seed: int, rows: int = ROWS) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Return a generator, the true log-odds and drawn labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-3.0, 1.0, rows)
    return rng, logits, rng.random(rows) < 1 / (1 + np.exp(-logits))


def probability(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def compared(candidate: np.ndarray, baseline: np.ndarray, labels: np.ndarray) -> Difference:
    return gates.difference(Pair(candidate, baseline, labels, np.ones(len(labels))), FAIR)


def verdict(found: Difference, *parts: Slice, objections: tuple[str, ...] = ()) -> gates.Verdict:
    return gates.judge("the champion", found, parts, objections, FAIR)


def test_equal_models_are_promoted_no_more_often_than_the_confidence_allows() -> None:
    promoted = 0
    for seed in range(200):
        rng, logits, labels = world(seed)
        one, other = (probability(logits + rng.normal(0.0, 0.3, ROWS)) for _ in range(2))
        promoted += verdict(compared(one, other, labels)).result == "promote"
    assert promoted <= 20  # 5% of 200 are 10; 20 is three deviations above


def test_a_better_model_is_promoted_and_a_worse_one_refused() -> None:
    for seed in range(20):
        rng, logits, labels = world(seed)
        truth, rough = probability(logits), probability(logits + rng.normal(0.0, 1.0, ROWS))
        assert verdict(compared(truth, rough, labels)).result == "promote"
        worse = verdict(compared(rough, truth, labels))
        assert worse.result == "refuse"
        assert "not better than that of the champion" in worse.reasons[0]


def test_the_same_predictions_leave_the_champion() -> None:
    _, logits, labels = world(1)
    found = compared(probability(logits), probability(logits), labels)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert verdict(found).result == "refuse"


def test_the_interval_covers_the_gain_and_is_reproducible() -> None:
    gains = []
    for seed in range(100):
        rng, logits, labels = world(seed, 2_000)
        found = compared(probability(logits), probability(logits + rng.normal(0, 0.5, 2_000)), labels)
        gains.append(found)
    expected = np.mean([found.mean for found in gains])
    inside = sum(found.low <= expected <= found.high for found in gains)
    assert 80 <= inside <= 98  # 90 are meant: 5% beyond either side
    _, logits, labels = world(3)
    again = [compared(probability(logits), probability(logits + 0.1), labels) for _ in range(2)]
    assert again[0] == again[1]


def test_without_rows_nothing_is_better() -> None:
    nothing = np.empty(0)
    assert gates.difference(Pair(nothing, nothing, nothing.astype(np.bool_), nothing), FAIR) == Difference(
        0, 0, 0.0, 0.0, 0.0
    )


def test_a_row_counts_as_often_as_it_weighs() -> None:
    labels, weights = np.array([True, False]), np.array([1.0, 3.0])
    pair = Pair(np.array([0.5, 0.5]), np.array([0.25, 0.25]), labels, weights)
    expected = (np.log(0.5 / 0.25) + 3 * np.log(0.5 / 0.75)) / 4
    assert gates.difference(pair, FAIR).mean == pytest.approx(expected)
    (part,) = gates.slices("exchange", np.array([1, 1]), pair, FAIR._replace(slice_clicks_min=1))
    assert part == Slice("exchange 1", 1, 2.0, 1.0)


def test_a_gain_that_may_be_chance_goes_into_shadow() -> None:
    found = verdict(Difference(5_000, 90, 0.0001, -0.0002, 0.0004))
    assert found.result == "shadow"
    assert "may be chance" in found.reasons[0]


@pytest.mark.parametrize(("rows", "clicks"), [(0, 0), (299, 40), (5_000, 29)])
def test_too_little_later_traffic_refuses(rows: int, clicks: int) -> None:
    found = verdict(Difference(rows, clicks, 0.5, 0.4, 0.6))
    assert found.result == "refuse"
    assert f"{rows} rows with {clicks} clicks" in found.reasons[0]
    assert "300 with 30 are needed" in found.reasons[0]


@pytest.mark.parametrize(
    ("pcoc", "baseline", "refused"),
    [(1.0, 1.0, False), (0.69, 1.0, True), (1.41, 1.0, True), (0.69, 0.5, False), (1.5, 1.45, True)],
)
def test_a_slice_out_of_bounds_refuses_where_the_champion_is_nearer(
    pcoc: float, baseline: float, refused: bool
) -> None:
    found = verdict(Difference(5_000, 300, 0.5, 0.4, 0.6), Slice("campaign 7", 250, pcoc, baseline))
    assert (found.result == "refuse") == refused
    assert not refused or "campaign 7" in found.reasons[0]


def test_slices_are_those_with_enough_clicks() -> None:
    keys = np.repeat([5, 9], [300, 100])
    labels = np.arange(400) % 4 < 3
    pair = Pair(np.full(400, 0.375), np.full(400, 1.5), labels, np.ones(400))
    found = gates.slices("campaign", keys, pair, FAIR)
    assert found == [Slice("campaign 5", 225, 0.5, 2.0)]


def test_objections_refuse_and_are_kept() -> None:
    found = verdict(Difference(5_000, 300, 0.5, 0.4, 0.6), objections=("the moon is full",))
    assert found == gates.Verdict("refuse", ("the moon is full",))


def test_each_objection_is_a_sentence() -> None:
    labels = np.arange(100) % 2 == 0
    good, bad, none = (measure(np.full(100, rate), labels) for rate in (0.5, 0.9, 0.4))
    assert not gates.uncalibrated(good, FAIR)
    assert "1.80 times the clicks" in gates.uncalibrated(bad, FAIR)[0]
    assert "no clicks" in gates.uncalibrated(measure(np.full(9, 0.5), np.zeros(9, dtype=bool)), FAIR)[0]
    assert not gates.worse_than_prior(good, none, FAIR)
    assert "of the prior" in gates.worse_than_prior(none, good, FAIR)[0]
    assert not gates.worse_than_prior(none, good, FAIR._replace(log_loss_tolerance=0.5))
    assert "no rows" in gates.worse_than_prior(measure(np.empty(0), np.empty(0, dtype=bool)), good, FAIR)[0]


def test_what_is_on_a_bound_is_within_it() -> None:
    found = measure(np.array([0.5, 0.5]), np.array([True, False]))
    for pcoc in (FAIR.pcoc_min, FAIR.pcoc_max):
        assert gates.uncalibrated(found._replace(pcoc=pcoc), FAIR) == []
    assert gates.worse_than_prior(found, found, FAIR) == []
    assert verdict(Difference(FAIR.rows_min, FAIR.clicks_min, 0.001, 0.0, 0.002)).result == "shadow"


def test_only_what_is_surely_worse_is_beaten() -> None:
    assert not gates.beaten("the rates", Difference(1_000, 300, -0.002, -0.006, 0.002), FAIR)
    assert not gates.beaten("the rates", Difference(0, 0, 0.0, 0.0, 0.0), FAIR)
    assert (
        "than that of the rates: by -0.004"
        in gates.beaten("the rates", Difference(9, 3, -0.004, -0.006, -0.002), FAIR)[0]
    )
