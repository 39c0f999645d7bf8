"""Calibration: what moves, how far it is believed, and that serving gives what training fitted."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.spec import FeatureSpec, Group
from models.serving.calibration import CalibrationSpec, HierarchicalCalibration, PairedCalibration, restore, shifts
from models.serving.statistics import Columns, sigmoid
from models.training import calibrate
from models.training.rows import Rows

EXCHANGE = Group(name="exchange", request=("exchange",))
CAMPAIGN = Group(name="campaign", ad=("campaign",))
COLUMNS = Columns(("hour", "exchange"), ("creative", "campaign"))
SPEC = FeatureSpec(
    request_columns=COLUMNS.request,
    ad_columns=COLUMNS.ad,
    groups=(EXCHANGE, CAMPAIGN),
    hierarchy=(CAMPAIGN,),
    calibrate_by=(EXCHANGE, CAMPAIGN),
)
#: How far predictions are off in log-odds, by campaign.
OFF = np.array([0.0, 0.7, -0.7, 0.0, 0.0])


def made(count: int, seed: int = 1) -> tuple[NDArray[np.float64], Rows]:
    rng = np.random.default_rng(seed)
    requests = np.column_stack([rng.integers(0, 24, count), rng.integers(1, 4, count)])
    ads = np.column_stack([rng.integers(1, 50, count), rng.integers(0, 5, count)])
    logits = rng.normal(-3.0, 1.0, count)
    labels = rng.random(count) < sigmoid(logits + OFF[ads[:, 1]])
    return logits, Rows(np.arange(count), requests, ads, labels, np.ones(count))


def by_campaign(predicted: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    campaigns = rows.ads[:, 1]
    return np.array([predicted[campaigns == c].sum() / rows.labels[campaigns == c].sum() for c in range(5)])


def test_campaigns_are_put_right_one_by_one() -> None:
    logits, rows = made(60_000)
    fitted = calibrate.fit_hierarchy(logits, rows, SPEC)
    later_logits, later = made(60_000, seed=2)
    before = by_campaign(sigmoid(later_logits), later)
    after = by_campaign(fitted(later_logits, later.requests, later.ads), later)
    assert np.abs(before - 1.0).max() > 0.3
    assert after == pytest.approx(1.0, abs=0.08)


def test_thin_data_move_little() -> None:
    logits, rows = made(60_000)
    few = calibrate.fit_hierarchy(logits[:200], rows[slice(0, 200)], SPEC)
    many = calibrate.fit_hierarchy(logits, rows, SPEC)
    assert np.abs(few.shifts.values).max() < 0.6 * np.abs(many.shifts.values).max()
    assert few.slope == pytest.approx(1.0, abs=0.35)


def test_no_rows_leave_all_as_it_is() -> None:
    logits, rows = made(10)
    nothing = calibrate.fit_hierarchy(logits[:0], rows[slice(0, 0)], SPEC)
    assert nothing(logits, rows.requests, rows.ads) == pytest.approx(sigmoid(logits))


def test_sampled_rows_are_believed_less_than_as_many_rows_as_they_weigh() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(-3.0, 0.5, 60_000)
    labels = rng.random(60_000) < sigmoid(logits + 0.5)
    kept = rng.random(60_000) < 0.01
    _, from_all = calibrate.fit(logits, labels, np.ones(60_000))
    _, from_few = calibrate.fit(logits[kept], labels[kept], np.full(kept.sum(), 100.0))
    _, from_unweighted = calibrate.fit(logits[kept], labels[kept], np.ones(kept.sum()))
    assert from_all == pytest.approx(0.5, abs=0.1)
    assert from_few == pytest.approx(from_unweighted, abs=0.15)


def test_levels_that_differ_from_day_to_day_are_believed_less() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(-3.0, 0.5, 40_000)
    days = np.arange(40_000) // 10_000
    off = np.array([1.2, -0.6, 1.2, -0.2])[days]  # 0.4 on average
    labels = rng.random(40_000) < sigmoid(logits + off)
    centre = float(logits.mean())

    def level(blocks: NDArray[np.int64] | None) -> float:
        slope, intercept = calibrate.fit(logits, labels, np.ones(40_000), blocks)
        return slope * centre + intercept - centre

    assert 0.0 < level(days) < 0.8 * level(None)


def test_a_prepared_calibration_gives_what_calibrating_rows_gives() -> None:
    logits, rows = made(2_000)
    fitted = calibrate.fit_hierarchy(logits, rows, SPEC)
    prepared = fitted.prepare(rows.ads)
    rng = np.random.default_rng(6)
    for number in range(50):
        chosen = rng.integers(0, len(rows), 12)
        request = rows.requests[number]
        expected = fitted(logits[chosen], request[np.newaxis], rows.ads[chosen])
        found = prepared(logits[chosen].astype(np.float32), prepared.offsets(request, chosen))
        assert found == pytest.approx(expected, rel=1e-5)
        assert found.dtype == np.float64


def test_a_pair_gives_what_its_calibrations_give_by_themselves() -> None:
    pair = []
    for seed in (1, 2):
        logits, rows = made(20_000, seed)
        pair.append(calibrate.fit_hierarchy(logits, rows, SPEC))
    ads = np.array([[creative, 1 + creative % 4] for creative in range(1, 40)])
    paired = PairedCalibration((pair[0].prepare(ads), pair[1].prepare(ads)))
    request, chosen, logits = np.array([5, 2]), np.array([3, 30, 7]), np.array([[-3.0, -5.0], [-1.0, 0.5], [2.0, -2.0]])
    alone = [one(logits[:, at], request[np.newaxis], ads[chosen]) for at, one in enumerate(pair)]
    assert np.array_equal(paired(logits, request, chosen), np.column_stack(alone))
    assert np.array_equal(paired.of_all(logits, [(request, chosen[:1]), (request, chosen[1:])]), np.column_stack(alone))


def test_its_json_form_is_the_same_calibration_and_rubbish_is_refused() -> None:
    logits, rows = made(5_000)
    fitted = calibrate.fit_hierarchy(logits, rows, SPEC)
    spec = msgspec.json.decode(msgspec.json.encode(fitted.spec()), type=CalibrationSpec)
    again = restore(spec, COLUMNS)
    assert np.array_equal(again(logits, rows.requests, rows.ads), fitted(logits, rows.requests, rows.ads))
    for broken in ({"slope": float("nan")}, {"shifts": spec.shifts[1:]}):
        with pytest.raises(ValueError, match="another form"):
            restore(msgspec.structs.replace(spec, **broken), COLUMNS)


def test_unknown_values_shift_nothing_and_crosses_are_refused() -> None:
    logits, rows = made(5_000)
    fitted = calibrate.fit_hierarchy(logits, rows, SPEC)
    strange = np.full((3, 2), 99)
    assert fitted.logits(logits[:3], strange, strange) == pytest.approx(logits[:3] * fitted.slope + fitted.intercept)
    cross = Group(name="cross", request=("exchange",), ad=("campaign",))
    with pytest.raises(ValueError, match="not at both"):
        HierarchicalCalibration(1.0, 0.0, shifts([cross], [], [], COLUMNS))


def test_exchanges_that_keep_changing_are_not_remembered_for_ever() -> None:
    logits, rows = made(500)
    fitted = calibrate.fit_hierarchy(logits, replace(rows), SPEC)
    for value in range(10_000):
        fitted.request_shift(np.array([0, value]))
    assert len(fitted._known) <= 4_096


def test_what_a_model_did_not_know_of_a_new_campaign_is_not_put_right_twice() -> None:
    """Out of time a campaign that has just begun is predicted without having been seen; what serves has learned it."""
    logits, rows = made(60_000)
    blocks = np.arange(60_000) // 20_000
    begun = np.where(rows.ads[:, 1] == 1, blocks == 2, True)  # campaign 1, off by 0.7, is new in the last
    logits, rows, blocks = logits[begun], rows[begun], blocks[begun]
    found = calibrate.fit_hierarchy(logits, rows, SPEC, blocks, rows[blocks == 0])
    seen = calibrate.fit_hierarchy(logits, rows, SPEC, blocks, rows[rows.ads[:, 1] == 1])

    def moved(fitted: HierarchicalCalibration, campaign: int) -> float:
        return float(fitted.logits(np.zeros(1), np.array([[0, 99]]), np.array([[0, campaign]]))[0])

    crossed = calibrate.fit_hierarchy(logits, rows, SPEC, blocks, crosswise=True)
    for each in (found, crossed):
        assert moved(each, 1) == each.intercept
        assert moved(each, 2) == pytest.approx(-0.7, abs=0.2)
    assert moved(seen, 1) == pytest.approx(0.7, abs=0.2)
