"""What the predictor benchmark measures: a network and a forest that have learned nothing of use, in several forms."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.serving.session import Provider, Session

FIELDS, EMBEDDING = 24, 16
TREES, LEAVES = 300, 63
_TRAINING_ROWS = 20_000
_ADS = 1_000
_SAMPLE_ROWS = 2_000
_SEED = 1

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that scores rows, as its own library does it; `table` is of ads, (C, columns)."""

    name: str
    table: Floats
    score: Callable[[Floats], object]

    def rows(self, count: int) -> Floats:
        """Return so many rows of input."""
        found: Floats = self.table[np.arange(count) % len(self.table)]
        return found

    def raw(self, count: int) -> Callable[[], object]:
        """Return one call of the library for so many rows."""
        rows, score = self.rows(count), self.score
        return lambda: score(rows)


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX graph. An input row is the ad's row of `table`, (C, columns), plus the request's."""

    name: str
    table: Floats
    session: Session
    request: Floats | None = None

    def rows(self, count: int) -> Floats:
        """Return so many rows of input."""
        found: Floats = self.table[np.arange(count) % len(self.table)]
        return found if self.request is None else found + self.request

    def raw(self, count: int) -> Callable[[], object]:
        """Return one call of ONNX Runtime for so many rows: its `run`, on arrays."""
        run, outputs = self.session.runtime.run, (self.session.output,)
        inputs = {self.session.input: self.rows(count)}
        return lambda: run(outputs, inputs)

    def served(self, count: int) -> Callable[[], object]:
        """Return one call as serving does it: gather the ads, add the request, run on bound memory."""
        rows, request, table = self.rows(count), self.request, self.table
        memory = self.session.bind(rows)
        chosen = np.arange(count) % len(table)

        def call() -> None:
            table.take(chosen, 0, rows, "clip")
            if request is not None:
                np.add(rows, request, rows)
            memory()

        return call


def empty(provider: Provider) -> Graph:
    """Return a graph that does nothing: what is left is what a call costs."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    table = np.zeros((_ADS, 1), np.float32)
    return Graph("empty", table, Session(made.SerializeToString(), provider))


def all_of(provider: Provider, trees: int) -> Iterator[Contestant | Graph]:
    """Yield what is measured on this device: networks on each, half precision on a GPU, bytes and trees on a CPU."""
    yield from _networks(provider)
    if provider == "cpu":
        yield from _forests(trees)


def _networks(provider: Provider) -> Iterator[Graph]:
    from models.training.network_export import NetworkShape, Precision, random_weights, share_weights, to_onnx

    shape = NetworkShape(FIELDS * EMBEDDING)
    weights = random_weights(shape, _SEED)
    matrix, bias = share_weights(weights)
    rng = np.random.default_rng(_SEED)
    # An ad's inputs are a third of all; what is not the ad's is the request's.
    of_ads = np.arange(shape.inputs) < shape.inputs // 3
    drawn = 0.5 * rng.standard_normal((_ADS + _SAMPLE_ROWS, shape.inputs)).astype(np.float32)
    ads, request = np.where(of_ads, drawn[:_ADS], np.float32(0)), np.where(of_ads, np.float32(0), drawn[0])
    states, state = ads @ matrix, (request @ matrix + bias).astype(np.float32)
    precisions: tuple[Precision, ...] = ("fp32", "fp16") if provider == "cuda" else ("fp32", "int8")
    for precision in precisions:
        sample = drawn[_ADS:] if precision == "int8" else None
        whole = Session(to_onnx(weights, form="full", precision=precision, sample=sample), provider)
        yield Graph(f"network {precision}", ads, whole, request)
        split = Session(to_onnx(weights, form="split", precision=precision, sample=sample), provider)
        yield Graph(f"network {precision} split", states, split, state)


def _forests(trees: int) -> Iterator[Contestant | Graph]:
    import lightgbm

    rng = np.random.default_rng(_SEED)
    features = rng.standard_normal((_TRAINING_ROWS, FIELDS)).astype(np.float32)
    labels = rng.random(_TRAINING_ROWS) < 1.0 / (1.0 + np.exp(-features[:, :8].sum(axis=1) * features[:, 8]))
    parameters = {"objective": "binary", "num_leaves": LEAVES, "num_threads": 1, "verbosity": -1, "seed": _SEED}
    booster = lightgbm.train(parameters, lightgbm.Dataset(features, labels), trees)
    ads = features[:_ADS]
    yield Graph("trees", ads, Session(_trees_onnx(booster)))
    yield Contestant("trees LightGBM", ads, lambda rows: booster.predict(rows, raw_score=True, num_threads=1))


def _trees_onnx(booster: Any) -> bytes:
    """Return the forest as the nightly exports it, its columns taken as they are."""
    from models.serving.statistics import Columns, Statistics
    from models.serving.transform import Transform
    from models.training.export import to_onnx
    from models.training.gbdt import Model

    names = tuple(f"field_{number}" for number in range(FIELDS))
    none = Statistics((), 0.0, np.empty(0, np.uint64), np.empty(0, np.float32), Columns(names, ()))
    return to_onnx(Model(Transform(none, names), booster, {}), "trees")
