"""What each input adds to what a tree ensemble in ONNX says: exact Shapley values of the graph that is served.

The value of a set of inputs is what the trees say on average when the others are unknown: where a split asks for one of
those, both ways are taken, as often as rows went there in training (Lundberg et al. 2020, "path-dependent").
"""

from collections.abc import Iterator
from math import factorial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import helper

_OPERATOR = "TreeEnsembleRegressor"


class Split(NamedTuple):
    """A condition on the way to a leaf: column <= threshold, or not; and the share of rows for which that was so."""

    column: int
    threshold: np.float32
    below: bool
    share: float


class Leaf(NamedTuple):
    """What a leaf adds, and the splits that lead to it from its tree's root."""

    weight: float
    path: tuple[Split, ...]


class Contributions(NamedTuple):
    """`base` plus the sum of a row of `columns`, (n, F), is what the trees say for it."""

    base: float
    columns: NDArray[np.float64]


def leaves(graph: Any) -> list[Leaf]:
    """Return the leaves of all trees of an onnx.GraphProto, which models.training.export has made.

    Raises:
        ValueError: the graph holds other than one such ensemble.
    """
    ensembles = [node for node in graph.node if node.op_type == _OPERATOR]
    if len(ensembles) != 1:
        raise ValueError(f"{len(ensembles)} tree ensembles where one is expected")
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in ensembles[0].attribute}
    keys = list(zip(given["nodes_treeids"], given["nodes_nodeids"], strict=True))
    nodes = {key: place for place, key in enumerate(keys)}
    added = zip(given["target_treeids"], given["target_nodeids"], given["target_weights"], strict=True)
    weights = {(tree, node): float(weight) for tree, node, weight in added}

    def walk(key: tuple[int, int], path: tuple[Split, ...]) -> Iterator[Leaf]:
        place = nodes[key]
        if given["nodes_modes"][place] == b"LEAF":
            yield Leaf(weights[key], path)
            return
        left = (key[0], given["nodes_truenodeids"][place])
        right = (key[0], given["nodes_falsenodeids"][place])
        rows = [given["nodes_hitrates"][nodes[child]] for child in (left, right)]
        for child, below, share in ((left, True, rows[0] / sum(rows)), (right, False, rows[1] / sum(rows))):
            split = Split(
                given["nodes_featureids"][place], np.float32(given["nodes_values"][place]), below, float(share)
            )
            yield from walk(child, (*path, split))

    return [leaf for tree in sorted(set(given["nodes_treeids"])) for leaf in walk((tree, 0), ())]


def contributions(ensemble: list[Leaf], features: NDArray[np.float32]) -> Contributions:
    """Return what each column of rows (n, F) adds to the sum of the trees."""
    base = 0.0
    columns = np.zeros(features.shape)
    for leaf in ensemble:
        used = sorted({split.column for split in leaf.path})
        met = np.ones((len(used), len(features)))
        shares = np.ones(len(used))
        for split in leaf.path:
            place = used.index(split.column)
            met[place] *= (features[:, split.column] <= split.threshold) == split.below
            shares[place] *= split.share
        base += leaf.weight * float(shares.prod())
        for place, column in enumerate(used):
            others = [other for other in range(len(used)) if other != place]
            mean = _mean_over_orders(met[others], shares[others])
            columns[:, column] += leaf.weight * (met[place] - shares[place]) * mean
    return Contributions(base, columns)


def _mean_over_orders(met: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n,) how much of a leaf the others reach, on average over which of them are known before a column.

    A leaf is a product over its columns: of `met` (m, n) where they are known, of `shares` (m,) where not. So the sum
    over all sets of k known ones is the coefficient of z^k in the product of (share + met z).
    """
    count = len(shares)
    coefficients = np.zeros((count + 1, met.shape[1]))
    coefficients[0] = 1.0
    for known, share in zip(met, shares, strict=True):
        coefficients[1:] = coefficients[1:] * share + coefficients[:-1] * known
        coefficients[0] *= share
    weights = [factorial(size) * factorial(count - size) / factorial(count + 1) for size in range(count + 1)]
    return np.asarray(np.array(weights) @ coefficients)
