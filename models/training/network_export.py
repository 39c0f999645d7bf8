"""The dense part of the network, as numpy arrays and as ONNX graphs: inputs -> two logits, dynamic batch axis.

The network is DCN-v2 (Wang et al., 2021) with low-rank cross layers beside an MLP, and a linear head for each of click
and conversion given click. Two graphs compute the same. "full" takes the inputs x0. "split" takes their `shares` alone:
all that is linear in x0, which is therefore a request's share plus an ad's share, each made once (`share_weights`).

A cross layer's output is x0 * f, f = 1 + the sum of b + z U over the layers so far, z being their products (r numbers
each). So the next product (x0 * f) V is its own share x0 * (1 + sum of b) V, plus z times a matrix that is a share too,

    (x0 * (z U)) V = z T,  T[s, j] = sum over i of x0[i] U[s, i] V[i, j],

and the head's sum w . (x0 * f) likewise: z . ((x0 * w) U'). With a small r all of it is smaller than x0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.serving.network import HEADS

INPUT, OUTPUT = "inputs", "logits"
OPSET = 17
_IR_VERSION = 8
#: ONNX Runtime's own operators: the quantised product is one of them.
_RUNTIME_DOMAIN = "com.microsoft"
#: Without VNNI the product of unsigned by signed bytes saturates above seven bits.
_INT8_MAX = 63

Floats = NDArray[np.float32]
Form = Literal["full", "split"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Cross:
    """A cross layer: x + x0 * ((x @ down) @ up + bias); down (D, r), up (r, D), bias (D,)."""

    down: Floats
    up: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer with rectifier: max(0, x @ weight + bias); weight (in, out), bias (out,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """All that the graphs hold, for D inputs and H outputs of the last hidden layer. One or more of each layer."""

    cross: tuple[Cross, ...]
    hidden: tuple[Dense, ...]
    cross_heads: Floats  # (D, 2)
    hidden_heads: Floats  # (H, 2)
    bias: Floats  # (2,)


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """The sizes of a network: D inputs, cross layers of a rank, and the widths of the hidden layers."""

    inputs: int
    cross_layers: int = 1
    cross_rank: int = 32
    hidden: tuple[int, ...] = (128, 64)


def random_weights(shape: NetworkShape, seed: int) -> NetworkWeights:
    """Return a network of this shape that has learned nothing: for measurements, and to start from."""
    rng = np.random.default_rng(seed)

    def drawn(*size: int) -> Floats:
        values: Floats = (rng.standard_normal(size) / np.sqrt(size[0])).astype(np.float32)
        return values

    cross = tuple(
        Cross(drawn(shape.inputs, shape.cross_rank), drawn(shape.cross_rank, shape.inputs), drawn(shape.inputs))
        for _ in range(shape.cross_layers)
    )
    widths = (shape.inputs, *shape.hidden)
    hidden = tuple(Dense(drawn(before, after), drawn(after)) for before, after in pairwise(widths))
    return NetworkWeights(cross, hidden, drawn(shape.inputs, HEADS), drawn(widths[-1], HEADS), drawn(HEADS))


def share_weights(weights: NetworkWeights) -> tuple[Floats, Floats]:
    """Return matrix (D, S) and bias (S,): inputs @ matrix + bias are the shares that the split graph takes.

    The shares are, in this order: for each cross layer what its product z would be if there were no products before it,
    and, from the second layer on, the matrix that takes those before to what they add; the first hidden layer before
    its rectifier; what takes all products to each head; each head's own sum.
    """
    layers, heads = weights.cross, weights.cross_heads
    factor = np.ones(len(heads), dtype=np.float32)
    parts = []
    for number, layer in enumerate(layers):
        parts.append(layer.down * factor[:, np.newaxis])
        parts += [_pairs(before.up, layer.down) for before in layers[:number]]
        factor = factor + layer.bias
    parts.append(weights.hidden[0].weight)
    parts += [layer.up.T * heads[:, head, np.newaxis] for head in range(HEADS) for layer in layers]
    parts.append(heads * factor[:, np.newaxis])
    matrix = np.concatenate(parts, axis=1)
    bias = np.zeros(matrix.shape[1], dtype=np.float32)
    first = sum(_widths(weights)[:-3])
    bias[first : first + len(weights.hidden[0].bias)] = weights.hidden[0].bias
    bias[-HEADS:] = weights.bias
    return np.ascontiguousarray(matrix, dtype=np.float32), bias


def _pairs(up: Floats, down: Floats) -> Floats:
    """Return what makes the matrix (r, r), row by row, that takes a layer's product to a later one: (D, r r)."""
    found: Floats = (up.T[:, :, np.newaxis] * down[:, np.newaxis, :]).reshape(len(down), -1)
    return found


def _widths(weights: NetworkWeights) -> list[int]:
    """Return how many columns each of the shares' parts has."""
    rank, layers = weights.cross[0].up.shape[0], len(weights.cross)
    of_cross = [width for number in range(layers) for width in (rank, number * rank * rank) if width]
    return [*of_cross, len(weights.hidden[0].bias), HEADS * layers * rank, HEADS]


def logits(weights: NetworkWeights, inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logits of inputs (n, D), float64 (n, 2), computed in double precision: the graphs' reference."""
    return _Reference(inputs).run(weights)


def to_onnx(
    weights: NetworkWeights,
    *,
    form: Form = "split",
    precision: Precision = "fp32",
    sample: NDArray[Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the serialised, checked ONNX model. Input float32 (rows, D) or (rows, S), output float32 (rows, 2).

    "fp16" computes in half precision, for GPUs. "int8" multiplies bytes where matrices are large, for CPUs; the ranges
    of what it multiplies are fixed from `sample`, inputs (n, D), so a row's logits do not depend on its batch.
    """
    if (sample is None) != (precision != "int8"):
        raise ValueError("int8 needs a sample of inputs to take ranges from, the others have no use for one")
    ranges = {}
    if sample is not None:
        reference = _Reference(sample)
        reference.run(weights)
        ranges = reference.ranges
    inputs = len(weights.cross_heads)
    columns = inputs if form == "full" else sum(_widths(weights))
    graph = _Graph(precision, ranges)
    graph.full(weights) if form == "full" else graph.split(weights)
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"network_{form}",
            [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["rows", columns])],
            [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["rows", HEADS])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_RUNTIME_DOMAIN, 1)],
        ir_version=_IR_VERSION,
        producer_name="dsp",
    )
    helper.set_model_props(made, {**(metadata or {}), "form": form, "precision": precision})
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class _Reference:
    """The network in double precision; notes the range of what enters each matrix, by the matrix's name."""

    def __init__(self, inputs: NDArray[Any]) -> None:
        self._inputs = inputs.astype(np.float64)
        self.ranges: dict[str, tuple[float, float]] = {}

    def run(self, weights: NetworkWeights) -> NDArray[np.float64]:
        crossed = self._inputs
        for number, layer in enumerate(weights.cross):
            product = self._product(crossed, layer.down, f"down_{number}")
            crossed = crossed + self._inputs * (self._product(product, layer.up, f"up_{number}") + layer.bias)
        hidden = self._inputs
        for number, dense in enumerate(weights.hidden):
            hidden = np.maximum(self._product(hidden, dense.weight, f"hidden_{number}") + dense.bias, 0.0)
        found: NDArray[np.float64] = crossed @ weights.cross_heads + hidden @ weights.hidden_heads + weights.bias
        return found

    def _product(self, left: NDArray[np.float64], right: Floats, name: str) -> NDArray[np.float64]:
        self.ranges[name] = min(float(left.min()), 0.0), max(float(left.max()), 0.0)
        product: NDArray[np.float64] = left @ right
        return product


class _Graph:
    """Nodes and constants of one graph."""

    def __init__(self, precision: Precision, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._half = precision == "fp16"
        self._ranges = ranges

    def full(self, weights: NetworkWeights) -> None:
        """Add the network as its definition reads."""
        inputs = crossed = self._entry()
        for number, layer in enumerate(weights.cross):
            product = self._product(crossed, layer.down, f"down_{number}")
            factor = self._product(product, layer.up, f"up_{number}", self._constant(f"bias_{number}", layer.bias))
            crossed = self._node("Add", crossed, self._node("Mul", inputs, factor))
        hidden = inputs
        for number, dense in enumerate(weights.hidden):
            hidden = self._dense(hidden, dense, number)
        logits = self._heads(hidden, weights.hidden_heads, "hidden_heads", self._constant("bias", weights.bias))
        self._exit(self._heads(crossed, weights.cross_heads, "cross_heads", logits))

    def split(self, weights: NetworkWeights) -> None:
        """Add what is left to do once the shares are there."""
        rank, widths = weights.cross[0].up.shape[0], _widths(weights)
        parts = [f"share_{number}" for number in range(len(widths))]
        lengths = self._constant("widths", np.array(widths))
        self.nodes.append(helper.make_node("Split", [self._entry(), lengths], parts, axis=1))
        *of_cross, first, of_heads, own = parts
        hidden = self._node("Relu", first)
        for number, dense in enumerate(weights.hidden[1:], 1):
            hidden = self._dense(hidden, dense, number)
        logits = self._heads(hidden, weights.hidden_heads, "hidden_heads", own)
        products = of_cross[0]
        for number, (alone, pairs) in enumerate(zip(of_cross[1::2], of_cross[2::2], strict=True), 1):
            before = self._shaped(products, 1, number * rank)
            added = self._node("MatMul", before, self._shaped(pairs, number * rank, rank))
            products = self._node("Concat", products, self._node("Add", alone, self._shaped(added, rank)), axis=1)
        weighed = self._node("Mul", of_heads, self._node("Concat", *[products] * HEADS, axis=1))
        sums = np.kron(np.eye(HEADS), np.ones((len(weights.cross) * rank, 1)))
        self._exit(self._heads(weighed, sums, "sums", logits))

    def _entry(self) -> str:
        return self._node("Cast", INPUT, to=onnx.TensorProto.FLOAT16) if self._half else INPUT

    def _exit(self, logits: str) -> None:
        if self._half:
            self.nodes.append(helper.make_node("Cast", [logits], [OUTPUT], to=onnx.TensorProto.FLOAT))
        else:
            self.nodes[-1].output[0] = OUTPUT

    def _dense(self, values: str, layer: Dense, number: int) -> str:
        bias = self._constant(f"hidden_bias_{number}", layer.bias)
        return self._node("Relu", self._product(values, layer.weight, f"hidden_{number}", bias))

    def _heads(self, values: str, matrix: NDArray[Any], name: str, added: str) -> str:
        return self._node("Gemm", values, self._constant(name, matrix), added)

    def _product(self, values: str, matrix: Floats, name: str, bias: str | None = None) -> str:
        more = [] if bias is None else [bias]
        if name not in self._ranges:
            return self._node("Gemm", values, self._constant(name, matrix), *more)
        low, high = self._ranges[name]
        scale = np.float32(max(high - low, 1e-6) / 255)
        zero = np.uint8(np.clip(round(-low / float(scale)), 0, 255))
        scales = np.maximum(np.abs(matrix).max(axis=0), 1e-12).astype(np.float32) / np.float32(_INT8_MAX)
        given = self._constant(f"{name}_in_scale", scale), self._constant(f"{name}_in_zero", zero)
        quantised = self._node("QuantizeLinear", values, *given)
        held = self._constant(name, np.round(matrix / scales).astype(np.int8))
        zeros = self._constant(f"{name}_zero", np.zeros(matrix.shape[1], dtype=np.int8))
        scaled = self._constant(f"{name}_scale", scales)
        operands = quantised, held, given[0], scaled, given[1], zeros, *more
        return self._node("MatMulIntegerToFloat", *operands, domain=_RUNTIME_DOMAIN)

    def _shaped(self, values: str, *shape: int) -> str:
        """Give each row another shape."""
        return self._node("Reshape", values, self._constant(f"shape_{len(self.nodes)}", np.array([-1, *shape])))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float16 if self._half else np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
