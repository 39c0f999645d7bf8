"""Fewer rows, the same rates: thinned negatives carry weights, and tell more than the latest rows alone."""

import numpy as np
import pytest

from models.evaluation.metrics import measure
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.features.spec import Group
from models.training import gbdt, sampling
from models.training.rows import Rows

CAMPAIGNS = 12
GROUPS = (Group(name="campaign", ad=("campaign_id",)),)


def world(seed: int, count: int) -> tuple[Rows, np.ndarray, list[str]]:
    """Return impressions of campaigns with rates from 0.2% to 4%, the rate of each, and bid ids."""
    rng = np.random.default_rng(seed)
    rates = 0.002 * 20.0 ** (np.arange(CAMPAIGNS) / (CAMPAIGNS - 1))
    campaign = rng.integers(CAMPAIGNS, size=count)
    ads = np.zeros((count, len(AD_COLUMNS)), dtype=np.int64)
    ads[:, AD_COLUMNS.index("campaign_id")] = 1 + campaign
    requests = np.zeros((count, len(REQUEST_COLUMNS)), dtype=np.int64)
    labels = rng.random(count) < rates[campaign]
    return Rows(np.arange(count), requests, ads, labels, np.ones(count)), rates, [f"{seed}-{n}" for n in range(count)]


def thinned(rows: Rows, ids: list[str], rows_max: int, *, weighted: bool = True) -> Rows:
    keep, weights = sampling.thin(rows.labels, sampling.lots(ids), rows_max)
    kept = rows[keep]
    return Rows(kept.at_ms, kept.requests, kept.ads, kept.labels, weights if weighted else np.ones(len(kept)))


def learned(rows: Rows, of: Rows) -> np.ndarray:
    statistics, _ = gbdt.fit_statistics(GROUPS, rows, PLATFORM, 0.01)
    return np.asarray(statistics.probabilities(of.requests, of.ads))


def by_campaign(rows: Rows) -> np.ndarray:
    """Return what is learned of each campaign."""
    one = Rows(
        rows.at_ms[:CAMPAIGNS], rows.requests[:CAMPAIGNS], rows.ads[:CAMPAIGNS].copy(), rows.labels[:CAMPAIGNS],
        rows.weights[:CAMPAIGNS],
    )  # fmt: skip
    one.ads[:, AD_COLUMNS.index("campaign_id")] = 1 + np.arange(CAMPAIGNS)
    return learned(rows, one)


def test_few_rows_are_left_alone() -> None:
    rows, _, ids = world(1, 500)
    keep, weights = sampling.thin(rows.labels, sampling.lots(ids), 500)
    assert keep.all()
    assert weights.tolist() == [1.0] * 500


def test_all_positives_stay_and_the_weights_stand_for_all_rows() -> None:
    rows, _, ids = world(1, 40_000)
    kept = thinned(rows, ids, 4_000)
    assert len(kept) == 4_000
    assert kept.labels.sum() == rows.labels.sum()
    assert kept.weights[kept.labels].tolist() == [1.0] * int(rows.labels.sum())
    assert kept.weights.sum() == pytest.approx(40_000)
    assert (np.diff(kept.at_ms) > 0).all()  # still in order of time


def test_what_is_kept_depends_on_the_bid_alone() -> None:
    rows, _, ids = world(1, 20_000)
    keep, _ = sampling.thin(rows.labels, sampling.lots(ids), 2_000)
    order = np.random.default_rng(5).permutation(20_000)
    again, _ = sampling.thin(rows.labels[order], sampling.lots([ids[place] for place in order]), 2_000)
    assert (keep[order] == again).all()
    half, _ = sampling.thin(rows.labels[:10_000], sampling.lots(ids[:10_000]), 1_000)
    both = keep[:10_000] & half
    assert both.sum() > 0.8 * half.sum()  # a window that has moved on keeps much the same


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
def test_bounds_hold_whatever_the_labels(rate: float) -> None:
    labels = np.random.default_rng(2).random(5_000) < rate
    keep, weights = sampling.thin(labels, sampling.lots(map(str, range(5_000))), 1_000)
    assert keep.sum() == 1_000
    assert weights.sum() == pytest.approx(5_000)
    assert weights[labels[keep]].sum() == pytest.approx(labels.sum())


def test_calibration_holds_with_weights_and_with_the_correction_without() -> None:
    rows, _, ids = world(3, 80_000)
    later, _, _ = world(4, 80_000)
    weighted = learned(thinned(rows, ids, 6_000), later)
    assert measure(weighted, later.labels, later.weights).pcoc == pytest.approx(1.0, abs=0.08)
    kept = thinned(rows, ids, 6_000)
    raw = learned(thinned(rows, ids, 6_000, weighted=False), later)
    assert measure(raw, later.labels, later.weights).pcoc > 5.0
    share = 1.0 / kept.weights[~kept.labels][0]
    corrected = raw / (raw + (1.0 - raw) / share)  # He et al. (2014)
    assert measure(corrected, later.labels, later.weights).pcoc == pytest.approx(1.0, abs=0.08)
    assert corrected == pytest.approx(weighted, rel=0.15)


def test_thinning_tells_more_than_the_latest_rows() -> None:
    errors: dict[str, list[float]] = {"thinned": [], "latest": [], "all": []}
    for seed in range(8):
        rows, rates, ids = world(10 + seed, 60_000)
        parts = {"thinned": thinned(rows, ids, 6_000), "latest": rows[slice(54_000, None)], "all": rows}
        for name, part in parts.items():
            errors[name].append(float(np.mean(np.log(by_campaign(part) / rates) ** 2)))
    means = {name: np.mean(found) for name, found in errors.items()}
    print(means)
    assert means["thinned"] < 0.5 * means["latest"]
    assert means["thinned"] < 2.0 * means["all"]
