"""The network's graphs: each form and precision computes what the reference does, row by row."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.serving.session import Session
from models.training.network_export import (
    Form,
    NetworkShape,
    NetworkWeights,
    Precision,
    logits,
    random_weights,
    share_weights,
    to_onnx,
)

SHAPES = [
    NetworkShape(96, cross_layers=3, cross_rank=16, hidden=(128, 64)),
    NetworkShape(96),
    NetworkShape(40, cross_layers=1, cross_rank=8, hidden=(16,)),
    NetworkShape(40, cross_layers=2, cross_rank=8, hidden=(32, 16)),
]


def run(model: bytes, fed: NDArray[np.float32]) -> NDArray[np.float64]:
    return Session(model).run(fed).astype(np.float64)


def fed(weights: NetworkWeights, inputs: NDArray[np.float32], form: Form) -> NDArray[np.float32]:
    if form == "full":
        return inputs
    matrix, bias = share_weights(weights)
    return inputs @ matrix + bias


def drawn(rows: int, width: int, seed: int = 3) -> NDArray[np.float32]:
    return (0.5 * np.random.default_rng(seed).standard_normal((rows, width))).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["full", "split"])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_graph_equals_reference(shape: NetworkShape, form: Form, rows: int) -> None:
    weights = random_weights(shape, seed=1)
    inputs = drawn(rows, shape.inputs)
    found = run(to_onnx(weights, form=form), fed(weights, inputs, form))
    np.testing.assert_allclose(found, logits(weights, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["full", "split"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.02), ("int8", 0.15)])
def test_lower_precision_stays_near(form: Form, precision: Precision, tolerance: float) -> None:
    weights = random_weights(SHAPES[0], seed=1)
    inputs = drawn(256, 96)
    sample = drawn(2_000, 96, seed=4) if precision == "int8" else None
    found = run(to_onnx(weights, form=form, precision=precision, sample=sample), fed(weights, inputs, form))
    expected = logits(weights, inputs)
    assert np.abs(found - expected).mean() < tolerance * expected.std()
    assert np.abs(found - expected).max() > 1e-6  # it is another precision


def test_int8_scores_a_row_the_same_in_any_batch() -> None:
    weights = random_weights(SHAPES[0], seed=1)
    model = to_onnx(weights, precision="int8", sample=drawn(2_000, 96, seed=4))
    state = fed(weights, drawn(64, 96), "split")
    together = run(model, state)
    np.testing.assert_allclose(run(model, state[5:6])[0], together[5], rtol=1e-6, atol=1e-6)


def test_int8_needs_a_sample_to_take_ranges_from() -> None:
    with pytest.raises(ValueError, match="sample"):
        to_onnx(random_weights(SHAPES[1], seed=1), precision="int8")


def test_shares_add_up_over_request_and_ad() -> None:
    weights = random_weights(SHAPES[0], seed=1)
    inputs = drawn(8, 96)
    matrix, bias = share_weights(weights)
    apart = inputs[:, :60] @ matrix[:60] + (inputs[:, 60:] @ matrix[60:] + bias)
    np.testing.assert_allclose(apart, inputs @ matrix + bias, atol=1e-5)
