"""Training: no row sees its own label, ONNX equals LightGBM, and the model is cheap enough to serve."""

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.evaluation.metrics import measure
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS, USER_COLUMNS
from models.features.platform import PLATFORM
from models.serving.calibration import platt
from models.serving.onnx import FEATURE_HASH_KEY, OnnxModel
from models.serving.predictor import Scorer, predict
from models.serving.prior import ConstantPredictor, PriorPredictor
from models.serving.rate import ModelPredictor, Part, Rate
from models.serving.session import Session
from models.serving.statistics import Statistics, sigmoid
from models.training import gbdt
from models.training.config import TrainingConfig
from models.training.export import to_onnx
from models.training.rows import Rows
from models.training.task import Task

CONFIG = TrainingConfig(rounds_max=80)


def column(name: str) -> int:
    return REQUEST_COLUMNS.index(name) if name in REQUEST_COLUMNS else AD_COLUMNS.index(name)


def made(count: int, seed: int = 1, *, signal: bool = True) -> Rows:
    rng = np.random.default_rng(seed)
    requests = rng.integers(0, 6, (count, len(REQUEST_COLUMNS)))
    requests[:, [column(name) for name in USER_COLUMNS]] = 0  # of strangers
    ads = rng.integers(1, 6, (count, len(AD_COLUMNS)))
    requests[:, column("floor_micros_cpm")] = rng.integers(0, 5_000_000, count)
    logits = np.full(count, -2.5)
    if signal:
        logits += 1.5 * (requests[:, column("segment_1")] == ads[:, column("ad_category_1")])
        # Numbers that matter only together: statistics cannot hold that, trees can.
        high = requests[:, column("floor_micros_cpm")] > 2_500_000
        logits += np.where(high ^ (requests[:, column("device")] > 2), 1.0, -1.0)
    labels = rng.random(count) < 1 / (1 + np.exp(-logits))
    return Rows(np.arange(count) * 10, requests, ads, labels, np.ones(count))


def task(rows: Rows) -> Task:
    return Task(rows, PLATFORM, 0.01, gbdt.block_edges(rows.at_ms, CONFIG.blocks), (0.0,), CONFIG)


def walk(rows: Rows) -> gbdt.Walk:
    return gbdt.walk(task(rows), 0.0)


def fit(rows: Rows, half_life_days: float = 0.0) -> gbdt.Model:
    return gbdt.fit(rows, task(rows), half_life_days, CONFIG.rounds_max, walk(rows).features)


def predictor_of(model: gbdt.Model, cvr: Rate | Statistics) -> ModelPredictor:
    return ModelPredictor("v", rate_of(model), cvr)


def rate_of(model: gbdt.Model) -> Rate:
    return Rate([Part(OnnxModel(to_onnx(model, "ctr"), model.transform))], platt(0.9, -0.1))


@pytest.fixture(scope="module")
def model() -> gbdt.Model:
    return fit(made(16_000))


def test_trees_find_what_statistics_cannot(model: gbdt.Model) -> None:
    later = made(20_000, seed=2)
    full = measure(sigmoid(model.logits(later.requests, later.ads)), later.labels)
    bare = measure(model.transform.statistics.probabilities(later.requests, later.ads), later.labels)
    assert full.log_loss is not None
    assert bare.log_loss is not None
    assert full.log_loss < 0.995 * bare.log_loss
    assert full.pcoc == pytest.approx(1.0, abs=0.08)


def test_onnx_equals_lightgbm(model: gbdt.Model) -> None:
    served = OnnxModel(to_onnx(model, "ctr"), model.transform)
    rows = made(20_000, seed=3)
    native = model.logits(rows.requests, rows.ads)
    assert np.abs(served.logits(rows.requests, rows.ads) - native).max() < 1e-5
    assert served.metadata[FEATURE_HASH_KEY] == FEATURE_HASH


def test_onnx_equals_lightgbm_on_the_thresholds_themselves(model: gbdt.Model) -> None:
    """Feature values equal to, just below and just above every split, where rounding decides."""
    splits: list[tuple[int, float]] = []

    def collect(node: dict[str, object]) -> None:
        if "split_feature" in node:
            splits.append((int(str(node["split_feature"])), float(str(node["threshold"]))))
            for side in ("left_child", "right_child"):
                collect(node[side])  # type: ignore[arg-type]

    for tree in model.booster.dump_model()["tree_info"]:
        collect(tree["tree_structure"])
    assert len(splits) > 50
    graph = to_onnx(model, "ctr")
    features = model.transform(*_pair(made(len(splits) * 3, seed=5)))
    for number, (feature, threshold) in enumerate(splits):
        for step, towards in enumerate((-np.inf, None, np.inf)):
            value = np.float32(threshold)
            features[3 * number + step, feature] = (
                value if towards is None else np.nextafter(value, np.float32(towards))
            )
    native = gbdt.linear(model.transform, features) + gbdt.trees(model.booster, features)
    found = Session(graph).run(features)
    assert np.abs(found[:, 0] - native).max() < 1e-5


def _pair(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return rows.requests, rows.ads


def test_no_row_sees_its_own_or_later_labels() -> None:
    rows = made(4_000)
    walked = walk(rows)
    edges = gbdt.block_edges(rows.at_ms, CONFIG.blocks)
    # Turning the labels of the last block round changes nothing that was said or described.
    labels = rows.labels.copy()
    labels[edges[-2] :] ^= True
    turned = walk(replace(rows, labels=labels))
    assert np.array_equal(walked.features, turned.features)
    assert np.array_equal(walked.logits, turned.logits)
    # Turning the first block's does change what comes after it.
    labels = rows.labels.copy()
    labels[: edges[1]] ^= True
    assert not np.array_equal(walked.logits, walk(replace(rows, labels=labels)).logits)


def test_a_block_is_told_by_all_others_and_never_by_itself() -> None:
    rows = made(4_000)
    edges = gbdt.block_edges(rows.at_ms, CONFIG.blocks)
    own = slice(int(edges[2]), int(edges[3]))
    others = rows.apart(rows[own])

    def crossed(turned: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        return gbdt.cross(task(replace(rows, labels=rows.labels ^ turned)), edges, 20)

    logits, features = crossed(np.zeros(len(rows), dtype=np.bool_))
    assert np.array_equal(features[own], crossed(~others)[1][own])
    later = np.arange(len(rows)) >= edges[-2]
    assert not np.array_equal(features[own], crossed(later)[1][own])
    assert measure(sigmoid(logits), rows.labels).pcoc == pytest.approx(1.0, abs=0.1)


def test_noise_is_not_learned() -> None:
    rows = made(6_000, signal=False)
    walked = walk(rows)
    labels = rows.labels[len(rows) - walked.logits.shape[1] :]
    found = measure(sigmoid(walked.logits[0]), labels)
    assert found.log_loss is not None
    assert found.normalised_entropy is not None
    assert found.normalised_entropy < 1.03  # before calibration
    assert found.auc == pytest.approx(0.5, abs=0.04)


def test_training_is_deterministic(model: gbdt.Model) -> None:
    assert to_onnx(fit(made(16_000)), "ctr") == to_onnx(model, "ctr")


def test_blocks_never_part_an_instant() -> None:
    edges = gbdt.block_edges(np.repeat(np.arange(10), 100), 6)
    assert edges[0] == 0
    assert edges[-1] == 1_000
    assert all(edge % 100 == 0 for edge in edges)
    assert len(gbdt.block_edges(np.zeros(100, dtype=np.int64), 6)) == 2
    assert len(gbdt.block_edges(np.empty(0, dtype=np.int64), 6)) == 1


def test_blocks_are_whole_days_where_three_remain() -> None:
    days = np.repeat(np.arange(4), [100, 150, 50, 100])
    hours = np.tile(np.arange(50), 8) * 60_000
    assert gbdt.block_edges(np.sort(days * 86_400_000 + hours), 6).tolist() == [0, 100, 250, 300, 400]
    month = np.repeat(np.arange(30), 20) * 86_400_000
    edges = gbdt.block_edges(month, 6)
    assert len(edges) == 7
    assert all(edge % 20 == 0 for edge in edges)
    # Of two days only two blocks would remain: they are cut within.
    assert len(gbdt.block_edges(np.arange(200) * 860_000, 6)) == 7


def test_older_rows_count_less_where_rates_changed() -> None:
    rows = made(8_000)
    at_ms = np.arange(8_000) // 2_000 * 86_400_000
    labels = rows.labels.copy()
    labels[:4_000] = False  # until then nobody clicked
    changed = replace(rows, at_ms=at_ms, labels=labels)
    found = [fit(changed, half_life).transform.statistics.base_logit for half_life in (0.0, 0.5)]
    assert found[1] > found[0] + 0.3


def test_rubbish_features_are_scored(model: gbdt.Model) -> None:
    statistics = model.transform.statistics
    predictor, prior = predictor_of(model, statistics), PriorPredictor(statistics, statistics, "prior")
    for value in (np.iinfo(np.int64).min, np.iinfo(np.int64).max, 0):
        request = np.full(len(REQUEST_COLUMNS), value, dtype=np.int64)
        ads = np.full((3, len(AD_COLUMNS)), value, dtype=np.int64)
        for one in (predictor, prior, ConstantPredictor()):
            found = predict(one, request, ads)
            for rates in found:
                assert rates.shape == (3,)
                assert rates.dtype == np.float64
                assert ((rates > 0) & (rates < 1)).all()
            assert predict(one, request, ads[:0]).pctr.shape == (0,)


def test_a_prepared_scorer_gives_what_scoring_rows_gives(model: gbdt.Model) -> None:
    rows = made(400, seed=5)
    hierarchy, _ = gbdt.fit_statistics(PLATFORM.hierarchy, rows, PLATFORM, 0.01)
    for conversions in (rate_of(model), hierarchy, model.transform.statistics):
        predictor = predictor_of(model, conversions)
        scorer = predictor.prepare(rows.ads)
        rng = np.random.default_rng(2)
        earlier = None
        for number in range(60):
            chosen = rng.integers(0, len(rows), rng.integers(1, 25))
            found = scorer.predict(rows.requests[number], chosen)
            expected = predictor.predict_rows(rows.requests[number : number + 1], rows.ads[chosen])
            alone = predict(predictor, rows.requests[number], rows.ads[chosen[:1]])
            assert np.array_equal(found.pctr, expected.pctr)
            assert np.array_equal(found.pcvr, expected.pcvr)
            assert (alone.pctr[0], alone.pcvr[0]) == (found.pctr[0], found.pcvr[0])
            # What was answered before is the caller's: no later call writes over it.
            assert earlier is None or np.array_equal(earlier[0].pctr, earlier[1])
            earlier = found, found.pctr.copy()


def test_the_prior_knows_only_the_hierarchy_of_ads() -> None:
    rows = made(8_000)
    ctr, _ = gbdt.fit_statistics(PLATFORM.hierarchy, rows, PLATFORM, 0.01)
    prior = PriorPredictor(ctr, ctr, "prior")
    first, second = (predict(prior, rows.requests[number], rows.ads[:16]) for number in (0, 1))
    assert np.array_equal(first.pctr, second.pctr)
    assert len(np.unique(first.pctr)) > 1


def test_predicting_sixteen_candidates_is_fast(model: gbdt.Model) -> None:
    predictor = predictor_of(model, model.transform.statistics)
    rows = made(16, seed=9)
    scorer = predictor.prepare(rows.ads)
    best_us = min(_timed_us(scorer, rows) for _ in range(20))
    # 50 to 70 us where this was written; the bound leaves room for slower and for busy machines.
    assert best_us < 1_000


def _timed_us(scorer: Scorer, rows: Rows) -> float:
    chosen = np.arange(len(rows))
    began = time.process_time_ns()
    for _ in range(50):
        scorer.predict(rows.requests[0], chosen)
    return (time.process_time_ns() - began) / 50 / 1_000
