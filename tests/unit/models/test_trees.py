"""Contributions of trees: against LightGBM's own, against a game worked out by hand, and what must add up."""

from itertools import permutations

import lightgbm
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.evaluation.trees import Leaf, Split, contributions, leaves
from models.features.platform import PLATFORM
from models.serving.statistics import Statistics
from models.serving.transform import Transform
from models.training.export import to_onnx
from models.training.gbdt import Model

NAMES = Transform(
    Statistics(PLATFORM.groups, -3.0, np.empty(0, np.uint64), np.empty(0, np.float32)),
    PLATFORM.request_numbers,
    PLATFORM.ad_numbers,
    PLATFORM.matches,
)


@pytest.fixture(scope="module")
def grown() -> tuple[Model, NDArray[np.float32]]:
    """Trees that split one column several times on the way to a leaf."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(3_000, len(NAMES.names))).astype(np.float32)
    logits = 2.0 * np.sin(3 * features[:, 0]) + features[:, 1] * features[:, 2] + (features[:, 30] > 0.3)
    labels = rng.random(len(features)) < 1 / (1 + np.exp(-logits))
    parameters = {"objective": "binary", "num_leaves": 12, "verbosity": -1, "num_threads": 1, "seed": 1}
    parameters |= {"bagging_fraction": 0.7, "bagging_freq": 1, "boost_from_average": False}
    booster = lightgbm.train(parameters, lightgbm.Dataset(features, labels.astype(np.float32)), 25)
    return Model(NAMES, booster, {}), features


def test_equal_those_of_lightgbm_though_read_from_onnx(grown: tuple[Model, NDArray[np.float32]]) -> None:
    model, features = grown
    ensemble = leaves(onnx.load_from_string(to_onnx(model, "ctr")).graph)
    repeated = [leaf for leaf in ensemble if len({split.column for split in leaf.path}) < len(leaf.path)]
    assert repeated, "the case where a column is asked twice on a path is not covered"
    found = contributions(ensemble, features[:500])
    native = np.asarray(model.booster.predict(features[:500], pred_contrib=True))
    assert np.abs(found.columns - native[:, :-1]).max() < 1e-5
    assert found.base == pytest.approx(native[0, -1], abs=1e-5)


def test_add_up_to_the_trees(grown: tuple[Model, NDArray[np.float32]]) -> None:
    model, features = grown
    found = contributions(leaves(onnx.load_from_string(to_onnx(model, "ctr")).graph), features)
    trees = np.asarray(model.booster.predict(features, raw_score=True))
    assert np.abs(found.base + found.columns.sum(axis=1) - trees).max() < 1e-5


def test_by_hand() -> None:
    """One leaf behind three columns: Shapley values are means over all orders in which columns become known."""
    shares = (0.5, 0.2, 0.9)
    path = tuple(Split(column, np.float32(1.0), True, share) for column, share in enumerate(shares))
    row = np.array([[0.0, 0.0, 2.0]], dtype=np.float32)  # meets the first two conditions, not the third
    met = (1.0, 1.0, 0.0)
    expected = np.zeros(3)
    for order in permutations(range(3)):
        value = np.prod(shares)
        known = list(shares)
        for column in order:
            known[column] = met[column]
            expected[column] += (np.prod(known) - value) / 6
            value = np.prod(known)
    found = contributions([Leaf(4.0, path)], row)
    assert found.columns[0] == pytest.approx(4.0 * expected)
    assert found.base == pytest.approx(4.0 * np.prod(shares))


def test_columns_that_no_tree_asks_add_nothing(grown: tuple[Model, NDArray[np.float32]]) -> None:
    model, features = grown
    ensemble = leaves(onnx.load_from_string(to_onnx(model, "ctr")).graph)
    asked = {split.column for leaf in ensemble for split in leaf.path}
    unasked = sorted(set(range(len(NAMES.names))) - asked)
    found = contributions(ensemble, features[:50])
    assert not found.columns[:, unasked].any()
