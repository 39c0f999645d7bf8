"""A fitted model as ONNX: features -> logit (before calibration), one graph, dynamic batch axis, pinned opsets.

The graph adds the statistics' log-odds (a weighted sum of feature columns) and the trees'. LightGBM compares in double
precision, ONNX Runtime in single: thresholds are rounded down, which decides the same for every float32 input.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.features.columns import FEATURE_HASH
from models.serving.onnx import FEATURE_HASH_KEY
from models.training.gbdt import Model

INPUT, OUTPUT = "features", "logit"
OPSET = 17
ML_OPSET = 3
_IR_VERSION = 8
#: LightGBM takes what is not farther from zero for zero, and splits there at this distance.
_ZERO = float(np.float32(1e-35))


def to_onnx(model: Model, name: str) -> bytes:
    """Return the serialised, checked ONNX model; `name` ("ctr", "cvr") names the graph."""
    columns = len(model.transform.names)
    weights = np.zeros((columns, 1), dtype=np.float32)
    weights[: len(model.transform.statistics.groups)] = 1.0
    base = np.array([model.transform.statistics.base_logit], dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", [INPUT, "weights", "base"], ["linear"]),
            helper.make_node(
                "TreeEnsembleRegressor",
                [INPUT],
                ["trees"],
                domain="ai.onnx.ml",
                **_ensemble(model.booster.dump_model()),
            ),
            helper.make_node("Add", ["linear", "trees"], [OUTPUT]),
        ],
        name,
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(base, "base")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="dsp")
    helper.set_model_props(made, {FEATURE_HASH_KEY: FEATURE_HASH, "columns": ",".join(model.transform.names)})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def _ensemble(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of TreeEnsembleRegressor (ai.onnx.ml) for LightGBM's dump_model()."""
    nodes: dict[str, list[Any]] = {
        key: []
        for key in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "hitrates")
    }
    target: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(dumped["tree_info"]):
        waiting = [tree["tree_structure"]]
        reached = 0  # nodes are numbered in the order in which they are met; children are met after their parent
        while reached < len(waiting):
            node = waiting[reached]
            leaf = "leaf_value" in node and "split_feature" not in node
            if leaf:
                for key, value in zip(target, (number, reached, 0, float(node["leaf_value"])), strict=True):
                    target[key].append(value)
            elif node["decision_type"] != "<=":
                raise ValueError(f"a split by {node['decision_type']!r} has no ONNX form here")
            else:
                waiting += [node["left_child"], node["right_child"]]
            described: tuple[Any, ...] = (
                number,
                reached,
                0 if leaf else node["split_feature"],
                "LEAF" if leaf else "BRANCH_LEQ",
                0.0 if leaf else _round_down(node["threshold"]),
                0 if leaf else len(waiting) - 2,
                0 if leaf else len(waiting) - 1,
                float(node["leaf_count" if leaf else "internal_count"]),
            )
            for key, value in zip(nodes, described, strict=True):
                nodes[key].append(value)
            reached += 1
    attributes = {f"nodes_{key}": values for key, values in nodes.items()}
    attributes |= {f"target_{key}": values for key, values in target.items()}
    return {**attributes, "n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


def _round_down(threshold: float) -> float:
    rounded = np.float32(threshold)
    takes_for_zero = -_ZERO <= threshold < 0.0  # and zero is above the threshold
    if float(rounded) > threshold or takes_for_zero:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)
