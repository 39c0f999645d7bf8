"""The contest of the kinds of models: what is compared was said before it happened, and the simple one is preferred."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.evaluation import metrics
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import sigmoid
from models.training import ensemble, gbdt
from models.training.config import TrainingConfig
from models.training.rows import Rows

DAY_MS = 86_400_000
SPEC = FeatureSpec(
    request_columns=("site", "hour"),
    ad_columns=("campaign",),
    groups=(
        Group(name="site", request=("site",)),
        Group(name="hour", request=("hour",)),
        Group(name="campaign", ad=("campaign",)),
        Group(name="site_x_campaign", request=("site",), ad=("campaign",)),
    ),
    hierarchy=(Group(name="campaign", ad=("campaign",)),),
    request_numbers=("hour",),
    calibrate_by=(Group(name="campaign", ad=("campaign",)),),
)
CONFIG = TrainingConfig(rounds_max=20, families=("ftrl", "gbdt"), gate_resamples=200)


def made(count: int = 3_000, days: int = 5, seed: int = 1) -> Rows:
    """Return clicks that fall to some pairs of site and campaign, and to a few hours."""
    rng = np.random.default_rng(seed)
    requests = np.column_stack([rng.integers(1, 9, count), rng.integers(0, 24, count)])
    ads = rng.integers(1, 6, (count, 1))
    logits = -2.5 + 1.5 * (requests[:, 0] % 5 == ads[:, 0] % 5) + 0.8 * (np.abs(requests[:, 1] - 12) < 4)
    at_ms = np.arange(count) * days * DAY_MS // count
    return Rows(at_ms, requests, ads, rng.random(count) < sigmoid(logits), np.ones(count))


@pytest.mark.parametrize("days", [1, 5])
def test_no_block_is_predicted_with_what_came_in_it_or_later(days: int) -> None:
    """Settings, trees, weights and calibration: turning a block's outcomes round changes nothing said of it before."""
    rows = made(days=days)
    walked = ensemble.walk(rows, SPEC, 0.1, CONFIG)
    edges = gbdt.block_edges(rows.at_ms, CONFIG.blocks)
    assert walked.start == edges[2]
    for begin, end in list(pairwise(edges[2:].tolist()))[-2:]:
        labels = rows.labels.copy()
        labels[begin:] ^= True
        turned = ensemble.walk(replace(rows, labels=labels), SPEC, 0.1, CONFIG)
        for name, predicted in walked.predicted.items():
            until = slice(0, end - walked.start)
            assert np.array_equal(predicted[until], turned.predicted[name][until])
        assert np.array_equal(walked.prior[until], turned.prior[until])


def test_what_serves_is_compared_with_what_was_learned_from_all_before() -> None:
    """A block is days long: a campaign that began in it would be known to what serves alone."""
    rows = made(4_000)
    edges = gbdt.block_edges(rows.at_ms, CONFIG.blocks)
    begin = int(edges[-2])
    begun = begin + (len(rows) - begin) // 4
    rows.ads[begun:, 0] = np.where(np.arange(begun, len(rows)) % 2 == 0, 9, rows.ads[begun:, 0])
    new = rows.ads[:, 0] == 9
    rows.labels[new] = np.random.default_rng(2).random(new.sum()) < 0.6
    since = begun + (len(rows) - begun) // 3
    walked = ensemble.walk(rows, SPEC, 0.1, CONFIG)
    fresh = ensemble.walk(rows, SPEC, 0.1, CONFIG, since_ms=int(rows.at_ms[since]))
    later = np.arange(walked.start, len(rows)) >= since
    for name in walked.predicted:
        assert np.array_equal(walked.predicted[name][~later], fresh.predicted[name][~later])
        assert np.array_equal(walked.logits[walked.parts(name)[0]], fresh.logits[walked.parts(name)[0]])
        losses = [
            metrics.losses(each.predicted[name], rows.labels[walked.start :])[later & new[walked.start :]].mean()
            for each in (walked, fresh)
        ]
        assert losses[1] < 0.9 * losses[0]
    # Nothing that came later was known; and where nothing is new all is as it was.
    cut, end = (since + (len(rows) - since) * part // 3 for part in (1, 2))
    labels = rows.labels.copy()
    labels[cut:] ^= True
    turned = ensemble.walk(replace(rows, labels=labels), SPEC, 0.1, CONFIG, since_ms=int(rows.at_ms[since]))
    for name, predicted in fresh.predicted.items():
        until = slice(0, end - walked.start)
        assert np.array_equal(predicted[until], turned.predicted[name][until])
    none = ensemble.walk(rows, SPEC, 0.1, CONFIG, since_ms=int(rows.at_ms[-1]) + 1)
    assert np.array_equal(none.chosen, walked.chosen)


def test_what_is_fitted_is_every_part_there_is_and_their_blend() -> None:
    rows = made()
    walked = ensemble.walk(rows, SPEC, 0.1, CONFIG)
    assert list(walked.predicted) == ["gbdt", "ftrl", "blend"]
    assert [each.name for each in walked.choice.compared] == ["blend", "ftrl"]
    fitted = ensemble.fit(rows, SPEC, 0.1, walked, list(walked.predicted), CONFIG)
    assert set(fitted.models) == {"ftrl", "gbdt"}
    assert sum(fitted.blends["blend"].weights.values()) == pytest.approx(1.0)
    assert fitted.blends["gbdt"].weights == {"gbdt": 1.0}
    later = made(seed=2)
    for name in walked.predicted:
        predicted = fitted.predict(name, later.requests, later.ads)
        assert predicted.mean() == pytest.approx(later.labels.mean(), rel=0.2)
    assert set(ensemble.fit(rows, SPEC, 0.1, walked, ["ftrl"], CONFIG).models) == {"ftrl"}  # no more than is asked for


@pytest.mark.parametrize("name", ["gbdt", "ftrl", "blend"])
@pytest.mark.parametrize("days", [1, 2])
def test_the_latest_hours_are_no_level_of_the_next_day(name: str, days: int) -> None:
    """Evenings have three times the clicks of mornings, and each hour comes again."""
    known, following = rhythmic(days, seed=1), rhythmic(1, seed=2)
    walked = ensemble.walk(known, SPEC, 0.1, CONFIG)
    fitted = ensemble.fit(known, SPEC, 0.1, walked, [name], CONFIG)
    predicted = fitted.predict(name, following.requests, following.ads)
    assert predicted.sum() == pytest.approx(known.labels[-6_000:].sum(), rel=0.05)


def rhythmic(days: int, seed: int) -> Rows:
    rows = made(6_000 * days, days=days, seed=seed)
    rows.requests[:, 1] = rows.at_ms % DAY_MS * 24 // DAY_MS
    labels = np.random.default_rng(seed).random(len(rows)) < np.where(rows.requests[:, 1] < 12, 0.05, 0.15)
    return replace(rows, labels=labels)


def test_a_walk_is_kept_whole() -> None:
    rows = made(2_000)
    walked = ensemble.walk(rows, SPEC, 0.1, CONFIG)
    choice = msgspec.json.decode(msgspec.json.encode(walked.choice), type=ensemble.Choice)
    again = ensemble.restore(ensemble.arrays(walked), choice)
    first, second = (
        ensemble.fit(rows, SPEC, 0.1, each, ["blend"], CONFIG).predict("blend", rows.requests, rows.ads)
        for each in (walked, again)
    )
    assert np.array_equal(first, second)
    assert np.array_equal(walked.chosen, again.chosen)


def test_kinds_of_models_are_a_setting() -> None:
    walked = ensemble.walk(made(2_000), SPEC, 0.1, msgspec.structs.replace(CONFIG, families=("gbdt",)))
    assert list(walked.predicted) == ["gbdt"]
    assert walked.choice.winner == "gbdt"
    assert walked.choice.absent == {}
    for families in ((), ("gbdt", "gbdt")):
        with pytest.raises(ValueError, match="families"):
            TrainingConfig(families=families)  # type: ignore[arg-type]


def test_rows_of_few_instants_cannot_be_walked_through() -> None:
    rows = made(2_000)
    with pytest.raises(ValueError, match="three time blocks"):
        ensemble.walk(replace(rows, at_ms=rows.at_ms * 0), SPEC, 0.1, CONFIG)


def noisy(rows: Rows, deviation: float, seed: int) -> NDArray[np.float64]:
    truth = np.where(rows.labels, 0.6, -0.6)
    return sigmoid(truth + np.random.default_rng(seed).normal(0.0, deviation, len(rows)))


def test_the_first_serves_unless_a_later_one_is_surely_better() -> None:
    rows = made(4_000)
    good, same, bad = noisy(rows, 0.2, 1), noisy(rows, 0.2, 2), noisy(rows, 1.5, 3)
    limits = CONFIG.limits()
    for predicted, winner in (
        ({"ftrl": good, "gbdt": same}, "ftrl"),
        ({"ftrl": same, "gbdt": good}, "ftrl"),
        ({"ftrl": bad, "gbdt": good, "blend": same}, "gbdt"),
        ({"ftrl": bad, "gbdt": bad, "blend": good}, "blend"),
        ({"ftrl": good, "gbdt": bad, "blend": bad}, "ftrl"),
    ):
        found, compared = ensemble.select(predicted, rows, limits)
        assert found == winner
        assert [each.name for each in compared] == list(predicted)[1:]
    _, compared = ensemble.select({"ftrl": bad, "gbdt": good, "blend": same}, rows, limits)
    assert [each.beside for each in compared] == ["ftrl", "gbdt"]


def test_regression_finds_what_tells_a_lot_among_rare_values_that_tell_nothing() -> None:
    """A penalty holds the weights of rare values small, and not that of one which many rows agree on."""
    rng = np.random.default_rng(1)
    count, tags = 3_000, tuple(f"tag_{slot}" for slot in range(1, 9))
    spec = FeatureSpec(request_columns=tags, ad_columns=(), groups=(Group(name="tag", request=tags),), hierarchy=())
    requests, telling = rng.integers(2, 400, (count, len(tags))), rng.random(count) < 0.05
    requests[telling, 0] = 1
    rates = sigmoid(np.where(telling, 2.0, -3.0))
    at_ms = np.arange(count) * DAY_MS // count
    rows = Rows(at_ms, requests, np.zeros((count, 0), dtype=np.int64), rng.random(count) < rates, np.ones(count))
    walked = ensemble.walk(rows, spec, 0.1, msgspec.structs.replace(CONFIG, families=("ftrl",)))
    least = metrics.losses(rates, rows.labels)[walked.start :].mean()
    assert walked.choice.log_losses["ftrl"] < 1.2 * least
