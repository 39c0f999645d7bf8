"""A rate of several models: prepared, batched, and of rows of any kind, all give the weighted sum of their log-odds."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.serving.calibration import HierarchicalCalibration, platt
from models.serving.keys import Shared
from models.serving.linear import Coordinates, LinearModel
from models.serving.network import NetworkHead
from models.serving.predictor import BatchScorer, Scorer, predict
from models.serving.rate import ModelPredictor, Part, Rate
from models.serving.session import CPU, Device
from models.serving.statistics import Columns, Statistics, sigmoid
from models.training.rows import Rows
from tests.unit.models.network_cases import AD_COLUMNS, REQUEST_COLUMNS, SPEC, made, random_inputs, random_model

COLUMNS = Columns(REQUEST_COLUMNS, AD_COLUMNS)
TABLE = made(50, seed=9).ads
ROWS = made(2_000, seed=1)
BATCHED = Device("cpu", "always", 64)


def linear(spec: FeatureSpec = SPEC) -> LinearModel:
    groups = tuple(sorted(spec.groups, key=lambda group: bool(group.ad)))
    told = FeatureSpec(request_columns=REQUEST_COLUMNS, ad_columns=AD_COLUMNS, groups=groups, hierarchy=())
    weights = np.random.default_rng(3).normal(0.0, 0.3, 1 << 12).astype(np.float32)
    return LinearModel(Coordinates(told, 12), weights, -2.0)


def blend(device: Device = CPU) -> Rate:
    """Return a rate of a network, whose rows may be batched, and a regression, whose are not."""
    model, _ = random_model(random_inputs(ROWS), device=device)
    return Rate([Part(NetworkHead(model, 0), 0.7), Part(linear(), 0.3)], scale())


def scale() -> HierarchicalCalibration:
    return platt(0.8, -0.5, COLUMNS)


def expected(rate: Rate, rows: Rows, ads: NDArray[np.int64]) -> NDArray[np.float64]:
    first, second = (part.model.logits(rows.requests[:1], ads) for part in rate.parts)
    return sigmoid(0.8 * (0.7 * first + 0.3 * second) - 0.5)


def test_parts_weigh_and_are_calibrated_together() -> None:
    rate = blend()
    np.testing.assert_allclose(
        rate.probabilities(ROWS.requests[:1], TABLE), expected(rate, ROWS, TABLE), rtol=0, atol=1e-12
    )
    alone = Rate([Part(linear())], platt(columns=COLUMNS))
    np.testing.assert_array_equal(alone.logits(ROWS.requests[:50], TABLE), linear().logits(ROWS.requests[:50], TABLE))


def test_a_prepared_rate_gives_what_rows_give_and_keeps_what_it_gave() -> None:
    rate = blend()
    prepared = rate.prepare(TABLE, Shared())
    rng = np.random.default_rng(2)
    given: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for number in range(40):
        chosen = rng.integers(0, len(TABLE), rng.integers(0, 9))
        found = prepared(ROWS.requests[number], chosen)
        assert found.dtype == np.float64
        alike = rate.probabilities(ROWS.requests[number : number + 1], TABLE[chosen])
        np.testing.assert_allclose(found, alike, rtol=1e-5)
        given.append((found, found.copy()))
    assert all(np.array_equal(found, kept) for found, kept in given)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_batch_of_impressions_equals_single_calls(order: Sequence[int]) -> None:
    """What is staged survives what is staged after it, whichever part can wait."""
    batched, single = blend(BATCHED), blend()
    rates = [Rate([rate.parts[place] for place in order], scale()) for rate in (batched, single)]
    none = Statistics((), -3.0, np.empty(0, np.uint64), np.empty(0, np.float32), COLUMNS)
    scorer = ModelPredictor("v", rates[0], none).prepare(TABLE)
    assert isinstance(scorer, BatchScorer)
    asked = [(ROWS.requests[number], np.arange(number, 3 * number)) for number in range(1, 6)]
    found = scorer.run([scorer.stage(*item) for item in asked])
    alone = ModelPredictor("v", rates[1], none)
    for (request, chosen), predictions in zip(asked, found, strict=True):
        np.testing.assert_allclose(predictions, predict(alone, request, TABLE[chosen]), rtol=1e-5)
        np.testing.assert_allclose(predictions.pcvr, sigmoid(np.array([-3.0]))[0])
    assert type(alone.prepare(TABLE)) is Scorer


def test_a_rate_without_parts_or_with_odd_weights_is_refused() -> None:
    for parts in ([], [Part(linear(), float("nan"))]):
        with pytest.raises(ValueError, match="parts"):
            Rate(parts, scale())
