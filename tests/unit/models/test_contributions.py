"""Contributions: terms add up to the log-odds that are served, and say which input did what."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.evaluation import contributions
from models.evaluation.contributions import Row
from models.evaluation.names import Names
from models.evaluation.parts import Parts, Trees
from models.evaluation.trees import leaves
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.encode import text_hash
from models.features.platform import PLATFORM
from models.serving.calibration import platt
from models.serving.onnx import OnnxModel
from models.serving.rate import Part, Rate
from models.training import ftrl, gbdt
from models.training.config import TrainingConfig
from models.training.export import to_onnx
from models.training.rows import Rows
from models.training.task import Task

CONFIG = TrainingConfig(rounds_max=30)
OS, FLOOR = REQUEST_COLUMNS.index("os"), REQUEST_COLUMNS.index("floor_micros_cpm")
SYSTEMS = np.array([text_hash(name) for name in ("ios", "android", "windows")])


def made(count: int, seed: int) -> Rows:
    """Return clicks that come with one operating system, and with floors of the middle: trees must find those."""
    rng = np.random.default_rng(seed)
    requests = np.zeros((count, len(REQUEST_COLUMNS)), dtype=np.int64)
    requests[:, OS] = rng.choice(SYSTEMS, count)
    requests[:, FLOOR] = rng.integers(0, 3_000_000, count)
    ads = rng.integers(1, 4, (count, len(AD_COLUMNS)))
    middle = np.abs(requests[:, FLOOR] - 1_500_000) < 500_000
    logits = -2.5 + 1.5 * (requests[:, OS] == SYSTEMS[0]) + 1.2 * middle
    return Rows(np.arange(count), requests, ads, rng.random(count) < 1 / (1 + np.exp(-logits)), np.ones(count))


@pytest.fixture(scope="module")
def model() -> tuple[Parts, Rate]:
    """Return trees and regression, blended: taken apart, and as they are served."""
    rows = made(8_000, 1)
    task = Task(rows, PLATFORM, 0.01, gbdt.block_edges(rows.at_ms, CONFIG.blocks), (0.0,), CONFIG)
    fitted = gbdt.fit(rows, task, 0.0, 30, gbdt.walk(task, 0.0).features)
    graph = to_onnx(fitted, "ctr")
    ensemble = leaves(onnx.load_from_string(graph).graph)
    linear = ftrl.fit(rows, PLATFORM, ftrl.FtrlConfig()).model()
    calibration = platt(0.9, -0.1)
    parts = Parts([(0.7, Trees(fitted.transform, ensemble)), (0.3, linear)], calibration)
    return parts, Rate([Part(OnnxModel(graph, fitted.transform), 0.7), Part(linear, 0.3)], calibration)


def served(model: Rate, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
    rates = model.probabilities(requests, ads)
    return np.log(rates) - np.log1p(-rates)


def test_terms_add_up_to_what_is_served(model: tuple[Parts, Rate]) -> None:
    parts, rate = model
    rows = made(200, 2)
    expected = served(rate, rows.requests, rows.ads)
    for number in range(200):
        found = contributions.of_model(parts, Row(rows.requests[number], rows.ads[number]), PLATFORM, Names())
        total = found.base + sum(term.log_odds for term in found.terms) + found.calibration
        assert abs(total - expected[number]) < 1e-5
        assert abs(found.log_odds - expected[number]) < 1e-5
        assert all(abs(sum(term.parts.values()) - term.log_odds) < 1e-12 for term in found.terms)


def test_terms_name_what_told(model: tuple[Parts, Rate]) -> None:
    parts, _ = model
    rows = made(1, 3)
    names = Names()
    names.learn(["ios"])
    row = Row(rows.requests[0], rows.ads[0])
    row.request[OS], row.request[FLOOR] = SYSTEMS[0], 1_500_000
    found = contributions.of_model(parts, row, PLATFORM, names)
    assert {term.name for term in found.terms[:2]} == {"operating system", "floor (CPM)"}
    by_name = {term.name: term for term in found.terms}
    assert by_name["operating system"].held == "ios"
    assert by_name["operating system"].parts["statistics"] > 0.35
    assert by_name["operating system"].parts["regression"] > 0.1
    assert by_name["floor (CPM)"].held == "1.50"
    assert by_name["floor (CPM)"].parts["trees"] > 0.2
    assert "statistics" not in by_name["floor (CPM)"].parts
    assert found.method == "exact: statistics, Shapley values of the trees, regression"
    row.request[OS] = SYSTEMS[1]
    other = {term.name: term for term in contributions.of_model(parts, row, PLATFORM, names).terms}
    assert other["operating system"].held == f"#{SYSTEMS[1]:016x}"
    assert other["operating system"].log_odds < 0.0


def test_statistics_alone_are_their_sum(model: tuple[Parts, Rate]) -> None:
    trees = model[0].models[0][1]
    assert isinstance(trees, Trees)
    statistics = trees.transform.statistics
    rows = made(1, 4)
    found = contributions.of_statistics(statistics, Row(rows.requests[0], rows.ads[0]), Names())
    assert found.log_odds == pytest.approx(float(statistics.logits(rows.requests, rows.ads)[0]), abs=1e-5)
    assert found.calibration == 0.0


def test_exchanged_columns_add_up_and_find_the_same(model: tuple[Parts, Rate]) -> None:
    _, rate = model
    rows = made(400, 5)
    row = Row(rows.requests[0].copy(), rows.ads[0])
    row.request[OS] = SYSTEMS[0]
    others = [Row(rows.requests[number], rows.ads[number]) for number in range(1, 400)]

    def logits(requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        return served(rate, requests, ads)

    found = contributions.by_exchange(logits, row, others, PLATFORM, Names(), orders=64)
    expected = served(rate, row.request[np.newaxis], row.ad[np.newaxis])[0]
    assert found.base + sum(term.log_odds for term in found.terms) == pytest.approx(expected, abs=1e-9)
    by_name = {term.name: term for term in found.terms}
    assert by_name["operating system"].log_odds > 0.5
    assert by_name["operating system"].error > 0.0
    assert by_name["country"].log_odds == 0.0  # the same in all rows


def test_an_additive_model_is_taken_apart_exactly() -> None:
    """The log-odds are a sum of two columns: a term is what its column has beyond the others' mean."""
    requests = np.zeros((3, len(REQUEST_COLUMNS)), dtype=np.int64)
    ads = np.ones((3, len(AD_COLUMNS)), dtype=np.int64)
    requests[:, FLOOR] = (10, 0, 2)

    def logits(requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        return requests[:, FLOOR] * 0.1 - ads[:, 0] * 3.0

    others = [Row(requests[1], ads[1])] * 2
    found = contributions.by_exchange(logits, Row(requests[0], ads[0]), others, PLATFORM, Names(), orders=8)
    assert found.terms[0].name == "floor (CPM)"
    assert found.terms[0].log_odds == pytest.approx(1.0)
    assert found.terms[0].error == pytest.approx(0.0, abs=1e-12)
    assert found.base == pytest.approx(-3.0)
