"""Delayed conversions: the delay's distribution from truncated data, and weights that keep rates where they are."""

import numpy as np
import pytest

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving.prior import CVR
from models.training import delay, gbdt
from models.training.config import TrainingConfig
from models.training.delay import Outcomes
from models.training.rows import Rows

HOUR = 3_600_000
DAY = 24 * HOUR
WINDOW = 7 * DAY
MEDIAN, SPREAD = 4 * HOUR, 1.2  # of the delays, which are log-normal


def clicks(
    rng: np.random.Generator, count: int, over_ms: int, rate: float, group: int = 1, median_ms: float = MEDIAN
) -> tuple[Outcomes, np.ndarray]:
    """Return clicks spread evenly over the time until now, as far as their outcome is known; and their true outcome."""
    age = rng.integers(0, over_ms, count)
    late = (median_ms * np.exp(SPREAD * rng.normal(size=count))).astype(np.int64)
    converts = (rng.random(count) < rate) & (late <= WINDOW)
    known = converts & (late <= age)
    return Outcomes(np.full(count, group), age, np.where(known, late, -1)), converts


def together(*parts: Outcomes) -> Outcomes:
    return Outcomes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def share_by(age_ms: float, median_ms: float = MEDIAN) -> float:
    """Return the true share of delays below an age, of those within the window."""
    late = median_ms * np.exp(SPREAD * np.random.default_rng(0).normal(size=400_000))
    return float((late <= age_ms).sum() / (late <= WINDOW).sum())


def test_delays_are_found_though_late_ones_are_not_seen_yet() -> None:
    seen, _ = clicks(np.random.default_rng(1), 60_000, 10 * DAY, 0.2)
    # A day of traffic ten times as heavy: most clicks are young, and what is seen of them is quick.
    young, _ = clicks(np.random.default_rng(2), 100_000, DAY, 0.2)
    seen = together(seen, young)
    found = delay.fit(seen, WINDOW)
    ages = np.array([HOUR // 2, HOUR, 6 * HOUR, DAY, 3 * DAY, WINDOW])
    arrived = found.arrived(np.ones(len(ages), dtype=np.int64), ages)
    assert arrived == pytest.approx([share_by(age) for age in ages], abs=0.02)
    came = seen.delay_ms[seen.delay_ms >= 0]
    assert (came <= 6 * HOUR).mean() > share_by(6 * HOUR) + 0.05  # what a plain histogram would say


def test_a_group_has_its_own_delays_as_far_as_its_conversions_show_them() -> None:
    rng = np.random.default_rng(3)
    slow, _ = clicks(rng, 40_000, 10 * DAY, 0.2, group=1)
    quick, _ = clicks(rng, 40_000, 10 * DAY, 0.2, group=2, median_ms=HOUR // 4)
    few, _ = clicks(rng, 20, 10 * DAY, 0.2, group=3, median_ms=HOUR // 4)
    found = delay.fit(together(slow, quick, few), WINDOW)
    one, two, three, unknown = found.arrived(np.array([1, 2, 3, 4]), np.full(4, 2 * HOUR))
    assert one == pytest.approx(share_by(2 * HOUR), abs=0.04)
    assert two == pytest.approx(share_by(2 * HOUR, HOUR // 4), abs=0.04)
    assert one < unknown < two
    assert abs(three - unknown) < 0.1


def test_a_conversion_beyond_the_window_is_none() -> None:
    ages = np.full(4, 30 * DAY)
    seen = Outcomes(np.ones(4, dtype=np.int64), ages, np.array([HOUR, WINDOW, WINDOW + 1, -1]))
    labels, weights = delay.weigh(seen, WINDOW)
    assert labels.tolist() == [True, True, False, False]
    assert weights.tolist() == [1.0] * 4  # all are as old as the window: nothing is to come
    assert delay.fit(seen, WINDOW).edges_ms[-1] == WINDOW


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.6])
def test_weights_leave_the_rate_where_it_is(rate: float) -> None:
    rng = np.random.default_rng(4)
    old, _ = clicks(rng, 60_000, 10 * DAY, rate)
    young, _ = clicks(rng, 120_000, 3 * HOUR, rate)
    seen = together(old, young)
    labels, weights = delay.weigh(seen, WINDOW)
    recent = np.arange(len(labels)) >= 60_000
    found = np.average(labels[recent], weights=weights[recent])
    assert found == pytest.approx(rate, rel=0.12)
    assert labels[recent].mean() < 0.3 * rate  # what it would be if young clicks were negatives
    assert ((weights > 0) & (weights <= 1)).mean() > 0.99


def test_nothing_known_is_nothing_weighed() -> None:
    empty = Outcomes(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    labels, weights = delay.weigh(empty, WINDOW)
    assert len(labels) == len(weights) == 0
    none = Outcomes(np.ones(3, dtype=np.int64), np.array([0, HOUR, 30 * DAY]), np.full(3, -1))
    assert delay.weigh(none, WINDOW)[0].sum() == 0


def _cvr(seen: Outcomes, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return what the smoothed rates say of the newest line item, learned from clicks as the nightly learns them."""
    order = np.argsort(-seen.age_ms, kind="stable")
    ads = np.zeros((len(order), len(AD_COLUMNS)), dtype=np.int64)
    for column in ("advertiser_id", "campaign_id", "line_item_id", "creative_id"):
        ads[:, AD_COLUMNS.index(column)] = seen.groups[order]
    requests = np.zeros((len(order), len(REQUEST_COLUMNS)), dtype=np.int64)
    rows = Rows(-seen.age_ms[order], requests, ads, labels[order], weights[order])
    statistics, _ = gbdt.fit_statistics(PLATFORM.hierarchy, rows, PLATFORM, CVR)
    newest = ads[seen.groups[order] == seen.groups.max()][:1]
    return float(statistics.probabilities(requests[:1], newest)[0])


#: By hours since the new campaign began: how far off its rate may be found in the mean of days, as a part of it.
@pytest.mark.parametrize(("hours", "bound"), [(1, 0.25), (6, 0.12), (24, 0.08)])
def test_a_new_campaign_does_not_collapse(hours: int, bound: float) -> None:
    """Eight advertisers have run for ten days; a new one of the same kind gets 200 clicks an hour from now on."""
    true, ours, negatives, mature = 0.2, [], [], []
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        rates = [0.1, 0.14, 0.17, 0.19, 0.21, 0.24, 0.27, 0.3]
        known = [clicks(rng, 2_000, 10 * DAY, rate, group=1 + number)[0] for number, rate in enumerate(rates)]
        seen = together(*known, clicks(rng, 200 * hours, hours * HOUR, true, group=9)[0])
        ours.append(_cvr(seen, *delay.weigh(seen, WINDOW)))
        came = seen.delay_ms >= 0
        negatives.append(_cvr(seen, came, np.ones(len(came))))
        old = seen.age_ms >= HOUR  # an hour's wait, then whoever has not converted is a negative
        mature.append(_cvr(seen, came, old.astype(np.float64)))
    print(
        f"{hours} h: ours {np.mean(ours):.3f} negatives {np.mean(negatives):.3f} an hour's wait {np.mean(mature):.3f}"
    )
    assert np.mean(ours) == pytest.approx(true, rel=bound)
    assert min(ours) > 0.4 * true
    assert np.mean(negatives) < {1: 0.3, 6: 0.5, 24: 0.8}[hours] * true
    if hours > 1:
        assert np.mean(mature) < {6: 0.7, 24: 0.9}[hours] * true


def test_a_window_is_a_second_at_least() -> None:
    """Without one no share of it has come: weights would be no numbers."""
    seen = Outcomes(np.array([1, 1]), np.array([10, 2_000]), np.array([5, -1]))
    assert np.isfinite(delay.weigh(seen, 1_000)[1]).all()
    TrainingConfig(conversion_window_seconds=1)
    with pytest.raises(ValueError, match="conversion_window_seconds"):
        TrainingConfig(conversion_window_seconds=0)
