"""Fewer rows, the same rates: thinned negatives carry weights, and tell more than the latest rows alone."""

from hashlib import md5

import numpy as np
import pytest

from models.evaluation.metrics import measure
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.features.spec import Group
from models.training import gbdt, sampling
from models.training.rows import Rows
from models.training.sampling import Counts

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
    """Keep of each class the rows of the lowest hashes, as the engine does."""
    of = Counts(int(rows.labels.sum()), int((~rows.labels).sum()))
    keep = np.zeros(len(rows), dtype=np.bool_)
    lots = np.array([md5(one.encode(), usedforsecurity=False).hexdigest() for one in ids])
    for count, members in zip(sampling.room(of, rows_max), (rows.labels, ~rows.labels), strict=True):
        places = np.flatnonzero(members)
        keep[places[np.argsort(lots[places])[:count]]] = True
    kept = rows[keep]
    weights = sampling.weigh(kept.labels, of) if weighted else np.ones(len(kept))
    return Rows(kept.at_ms, kept.requests, kept.ads, kept.labels, weights)


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


def test_a_single_row_of_a_class_stands_for_all_of_it() -> None:
    assert sampling.weigh(np.array([True, False]), Counts(3, 50)).tolist() == [3.0, 50.0]


@pytest.mark.parametrize(
    ("of", "kept"),
    [
        ((30, 470), (30, 470)),  # they fit
        ((30, 4_970), (30, 470)),  # all positives, and what negatives there is room for
        ((0, 5_000), (0, 500)),
        ((4_000, 1_000), (250, 250)),  # more positives than half
        ((4_900, 100), (400, 100)),
        ((5_000, 0), (500, 0)),
    ],
)
def test_positives_come_first_within_bounds(of: tuple[int, int], kept: tuple[int, int]) -> None:
    assert sampling.room(Counts(*of), 500) == kept
    labels = np.arange(sum(kept)) < kept[0]
    weights = sampling.weigh(labels, Counts(*of))
    assert weights[labels].sum() == pytest.approx(of[0])
    assert weights[~labels].sum() == pytest.approx(of[1])


def test_all_positives_stay_and_the_weights_stand_for_all_rows() -> None:
    rows, _, ids = world(1, 40_000)
    kept = thinned(rows, ids, 4_000)
    assert len(kept) == 4_000
    assert kept.labels.sum() == rows.labels.sum()
    assert kept.weights[kept.labels].tolist() == [1.0] * int(rows.labels.sum())
    assert kept.weights.sum() == pytest.approx(40_000)
    assert (np.diff(kept.at_ms) > 0).all()  # still in order of time


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
