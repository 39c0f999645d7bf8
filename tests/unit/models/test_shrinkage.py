"""Statistics: what is learned, how far it is shrunk, and that look-ups do not depend on how rows are put."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.spec import Group
from models.serving.statistics import TABLE_DTYPE, Description, Statistics, restore, sigmoid
from models.training import calibrate, shrinkage
from models.training.rows import Rows

DEVICE = Group(name="device", request=("device",))
ADVERTISER = Group(name="advertiser", ad=("advertiser_id",))
SEGMENT = Group(name="segment_x_advertiser", request=("segment_1", "segment_2"), ad=("advertiser_id",))


def rows(count: int, seed: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64], np.random.Generator]:
    rng = np.random.default_rng(seed)
    requests = np.zeros((count, len(REQUEST_COLUMNS)), dtype=np.int64)
    ads = np.zeros((count, len(AD_COLUMNS)), dtype=np.int64)
    requests[:, REQUEST_COLUMNS.index("device")] = rng.integers(1, 3, count)
    requests[:, REQUEST_COLUMNS.index("segment_1")] = rng.integers(0, 4, count)
    requests[:, REQUEST_COLUMNS.index("segment_2")] = rng.integers(0, 4, count)
    ads[:, AD_COLUMNS.index("advertiser_id")] = rng.integers(1, 4, count)
    return requests, ads, rng


def fit(
    groups: list[Group], requests: NDArray[np.int64], ads: NDArray[np.int64], labels: NDArray[np.bool_]
) -> tuple[Statistics, dict[str, float]]:
    count = len(labels)
    return shrinkage.fit(groups, Rows(np.arange(count), requests, ads, labels, np.ones(count)), 0.01)


def test_effects_are_found_and_noise_is_not() -> None:
    requests, ads, rng = rows(40_000)
    phone = requests[:, REQUEST_COLUMNS.index("device")] == 1
    labels = rng.random(40_000) < np.where(phone, 0.08, 0.02)
    fitted, strengths = fit([DEVICE, ADVERTISER, SEGMENT], requests, ads, labels)
    predicted = fitted.probabilities(requests, ads)
    assert predicted[phone].mean() == pytest.approx(0.08, rel=0.08)
    assert predicted[~phone].mean() == pytest.approx(0.02, rel=0.12)
    assert predicted.sum() == pytest.approx(labels.sum(), rel=0.02)
    # The others know nothing, and say so: next to nothing is left of them.
    deltas = fitted.deltas(requests, ads)
    others = [number for number, group in enumerate(fitted.groups) if group.name != "device"]
    assert np.abs(deltas[:, others]).max() < 0.2
    assert strengths["device"] < strengths["segment_x_advertiser"]


def test_pairs_are_learned_where_mains_cannot_tell() -> None:
    requests, ads, rng = rows(40_000)
    advertiser = ads[:, AD_COLUMNS.index("advertiser_id")]
    has = (requests[:, REQUEST_COLUMNS.index("segment_1")] == advertiser) | (
        requests[:, REQUEST_COLUMNS.index("segment_2")] == advertiser
    )
    labels = rng.random(40_000) < np.where(has, 0.1, 0.02)
    fitted, _ = fit([DEVICE, ADVERTISER, SEGMENT], requests, ads, labels)
    predicted = fitted.probabilities(requests, ads)
    assert predicted[has].mean() > 2.5 * predicted[~has].mean()


def test_a_lone_click_moves_little() -> None:
    requests, ads, _ = rows(2_000)
    labels = np.zeros(2_000, dtype=np.bool_)
    labels[:40] = True
    requests[0, REQUEST_COLUMNS.index("device")] = 99  # seen once, clicked once
    fitted, _ = fit([DEVICE], requests, ads, labels)
    assert fitted.probabilities(requests[:1], ads[:1])[0] < 0.08


@pytest.mark.parametrize("clicked", [False, True])
def test_rows_of_one_label_or_none_at_all_can_be_fitted(clicked: bool) -> None:
    requests, ads, _ = rows(50)
    for count in (0, 50):
        labels = np.full(count, clicked)
        fitted, strengths = fit([DEVICE, ADVERTISER, SEGMENT], requests[:count], ads[:count], labels)
        assert np.isfinite(fitted.logits(requests, ads)).all()
        if not count:  # the rate that is assumed, and no group tells anything
            assert fitted.probabilities(requests, ads) == pytest.approx(0.01)
            assert set(strengths.values()) == {max(shrinkage.STRENGTHS)}
    assert 0 < fitted.probabilities(requests, ads).mean() < 1


def test_one_request_with_many_ads_is_as_many_rows() -> None:
    requests, ads, rng = rows(5_000)
    fitted, _ = fit([DEVICE, ADVERTISER, SEGMENT], requests, ads, rng.random(5_000) < 0.1)
    together = fitted.deltas(requests[:1], ads[:16])
    apart = np.concatenate([fitted.deltas(requests[:1], ads[number : number + 1]) for number in range(16)])
    repeated = fitted.deltas(np.repeat(requests[:1], 16, axis=0), ads[:16])
    assert np.array_equal(together, apart)
    assert np.array_equal(together, repeated)


def test_unknown_values_count_for_nothing() -> None:
    requests, ads, rng = rows(5_000)
    fitted, _ = fit([DEVICE, ADVERTISER, SEGMENT], requests, ads, rng.random(5_000) < 0.1)
    extremes = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max, -1])
    strange = np.repeat(extremes[:, np.newaxis], len(REQUEST_COLUMNS), axis=1)
    assert not fitted.deltas(strange, strange[:, : len(AD_COLUMNS)]).any()


def test_the_order_of_a_set_does_not_matter() -> None:
    requests, ads, rng = rows(5_000)
    first, second = (REQUEST_COLUMNS.index(name) for name in ("segment_1", "segment_2"))
    fitted, _ = fit([SEGMENT], requests, ads, rng.random(5_000) < 0.1)
    swapped = requests.copy()
    swapped[:, [first, second]] = swapped[:, [second, first]]
    assert np.allclose(fitted.deltas(requests, ads), fitted.deltas(swapped, ads), atol=1e-6)


def test_restored_statistics_are_the_same_and_rubbish_is_refused() -> None:
    requests, ads, rng = rows(5_000)
    fitted, _ = fit([DEVICE, SEGMENT], requests, ads, rng.random(5_000) < 0.1)
    description = Description(fitted.base_logit, fitted.groups)
    again = restore(description, fitted.table())
    assert np.array_equal(again.deltas(requests, ads), fitted.deltas(requests, ads))
    with pytest.raises(ValueError, match="another form"):
        restore(description, np.zeros(3, dtype=[("key", "<u8")]))
    infinite = np.zeros(3, dtype=TABLE_DTYPE)
    infinite["value"] = np.inf
    with pytest.raises(ValueError, match="another form"):
        restore(description, infinite)
    with pytest.raises(ValueError, match="not in"):
        Statistics([Group(name="x", request=("no such column",))], 0.0, fitted.keys[:0], fitted.values[:0])


def test_calibration_mends_the_scale_and_leaves_little_data_alone() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(-3.0, 1.0, 200_000)
    labels = rng.random(200_000) < sigmoid(logits)
    slope, intercept = calibrate.fit(logits * 2.0, labels, np.ones(200_000))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.0, abs=0.1))
    few_slope, few_intercept = calibrate.fit(logits[:20] * 2.0, labels[:20], np.ones(20))
    assert few_slope == pytest.approx(1.0, abs=0.3)
    assert abs(few_intercept) < 2.0
    assert calibrate.fit(np.empty(0), np.empty(0, dtype=np.bool_), np.empty(0)) == (1.0, 0.0)


def test_a_row_counts_as_often_as_it_weighs() -> None:
    requests, ads, rng = rows(2_000)
    labels, weights = rng.random(2_000) < 0.1, rng.integers(0, 4, 2_000)
    groups = [DEVICE, ADVERTISER, SEGMENT]
    weighed = Rows(np.arange(2_000), requests, ads, labels, weights.astype(np.float64))
    found, _ = shrinkage.fit(groups, weighed, 0.01)
    copies = np.repeat(np.arange(2_000), weights)
    expected, _ = fit(groups, requests[copies], ads[copies], labels[copies])
    assert np.allclose(found.logits(requests, ads), expected.logits(requests, ads), atol=1e-5)


def seen_and_clicked(
    count: int, clicked: float, converted: float, seed: int = 1
) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Return impressions, their clicks, and the impressions' true rates of conversion.

    What segment and advertiser have in common counts `clicked` times for clicks, `converted` times for conversions.
    """
    requests, ads, rng = rows(count, seed)
    liked = (requests[:, REQUEST_COLUMNS.index("segment_1")] == ads[:, AD_COLUMNS.index("advertiser_id")]) - 0.25
    rates = sigmoid(-1.0 + converted * liked)
    labels = rng.random(count) < sigmoid(-2.5 + clicked * liked)
    impressions = Rows(np.arange(count), requests, ads, labels, np.ones(count))
    clicks = Rows(np.flatnonzero(labels), requests[labels], ads[labels], rng.random(count)[labels] < rates[labels],
                  np.ones(int(labels.sum())))  # fmt: skip
    return impressions, clicks, rates


def off(found: Statistics, impressions: Rows, rates: NDArray[np.float64]) -> float:
    predicted = found.probabilities(impressions.requests, impressions.ads)
    return float((rates * np.log(rates / predicted) + (1 - rates) * np.log((1 - rates) / (1 - predicted))).mean())


def test_conversions_start_from_what_clicks_tell() -> None:
    groups = [DEVICE, ADVERTISER, SEGMENT]
    gains = []
    for seed in range(5):
        impressions, clicks, rates = seen_and_clicked(4_000, 2.0, 1.5, seed)
        alone, _ = shrinkage.fit(groups, clicks, 0.05)
        found, _ = shrinkage.fit(groups, clicks, 0.05, seen=impressions)
        gains.append(off(alone, impressions, rates) - off(found, impressions, rates))
    assert np.mean(gains) > 0.0005
    assert found.probabilities(clicks.requests, clicks.ads).sum() == pytest.approx(clicks.labels.sum(), rel=0.05)


@pytest.mark.parametrize("converted", [0.0, -1.5])
def test_clicks_that_tell_nothing_of_conversions_or_the_contrary_do_no_harm(converted: float) -> None:
    groups = [DEVICE, ADVERTISER, SEGMENT]
    losses = []
    for seed in range(5):
        impressions, clicks, rates = seen_and_clicked(4_000, 2.0, converted, seed)
        alone, _ = shrinkage.fit(groups, clicks, 0.05)
        found, strengths = shrinkage.fit(groups, clicks, 0.05, seen=impressions)
        assert max(strengths.values()) > max(shrinkage.STRENGTHS)  # what they have beside clicks is all but silenced
        losses.append(off(found, impressions, rates) - off(alone, impressions, rates))
    assert np.mean(losses) < 0.001


def test_a_few_conversions_take_little_from_what_clicks_tell() -> None:
    """Those of liked ads alone: without a belief beforehand that would be taken for certain."""
    groups = [DEVICE, ADVERTISER, SEGMENT]
    impressions, clicks, _ = seen_and_clicked(4_000, 2.0, 1.5)
    few = clicks[slice(0, 12)]
    liked = few.requests[:, REQUEST_COLUMNS.index("segment_1")] == few.ads[:, AD_COLUMNS.index("advertiser_id")]
    few.labels[:] = liked
    assert 0 < liked.sum() < 12
    told, found = (
        one.logits(impressions.requests, impressions.ads)
        for one, _ in (shrinkage.fit(groups, impressions, 0.05), shrinkage.fit(groups, few, 0.05, seen=impressions))
    )
    assert np.ptp(found) < 0.5 * np.ptp(told)


@pytest.mark.parametrize("came", [False, True])
def test_where_none_or_all_convert_rates_stay_inside(came: bool) -> None:
    impressions, clicks, _ = seen_and_clicked(2_000, 2.0, 1.5)
    clicks.labels[:] = came
    found, _ = shrinkage.fit([DEVICE, ADVERTISER, SEGMENT], clicks, 0.05, seen=impressions)
    predicted = found.probabilities(impressions.requests, impressions.ads)
    assert 0.0 < predicted.min() <= predicted.max() < 1.0
    assert (predicted.mean() > 0.5) == came
