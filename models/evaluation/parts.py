"""A bundle taken apart: what each input adds to the log-odds of each model of a rate, to look into what is served."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from models.evaluation.trees import Leaf, contributions, leaves
from models.serving import bundle, linear, npz
from models.serving.bundle import BundleSpec, LinearSpec, NetworkSpec, PartSpec
from models.serving.calibration import CalibrationSpec, HierarchicalCalibration
from models.serving.calibration import restore as restore_calibration
from models.serving.linear import LinearModel
from models.serving.statistics import Statistics
from models.serving.transform import Transform

Rate = Literal["ctr", "cvr"]
Kind = Literal["statistics", "trees", "regression"]


class Trees(NamedTuple):
    """A model of statistics and trees: inputs, and the trees' leaves."""

    transform: Transform
    ensemble: list[Leaf]


class Parts(NamedTuple):
    """All that makes up a rate: models with their weights, and the calibration of their sum."""

    models: Sequence[tuple[float, Trees | LinearModel]]
    calibration: HierarchicalCalibration


class _Told(NamedTuple):
    """What an input adds to the log-odds of n rows, (n,). One name may have several, also of one kind."""

    name: str
    kind: Kind
    values: NDArray[np.float64]


def model(files: Mapping[str, bytes], rate: Rate) -> Parts | Statistics:
    """Return what gives a rate: models, or statistics alone.

    Raises:
        ValueError: a model of it, such as a network, does not fall apart into what its inputs add.
    """
    spec = _spec(files)
    described = spec.ctr if rate == "ctr" else spec.cvr
    if described is None:
        return prior(files, rate)
    calibration = msgspec.json.decode(files["calibration.json"], type=dict[str, CalibrationSpec])[rate]
    models = [(described.weights[name], _part(part, files)) for name, part in described.parts.items()]
    return Parts(models, restore_calibration(calibration))


def prior(files: Mapping[str, bytes], rate: Rate) -> Statistics:
    """Return what gives a rate when there is no time for the model. Raises ValueError as `model` does."""
    spec = _spec(files)
    return bundle.statistics(spec.prior_ctr if rate == "ctr" else spec.prior_cvr, files)


def told(
    of: Parts, requests: NDArray[np.int64], ads: NDArray[np.int64]
) -> tuple[float, dict[str, dict[Kind, NDArray[np.float64]]]]:
    """Return what rows (n, R) and (n, A) have in common, and what each input adds to their log-odds. Exact.

    That is (n,) by the input's name and what adds it: a number and statistics may have one name, a set has many slots.
    """
    base, found = 0.0, dict[str, dict[Kind, NDArray[np.float64]]]()
    for weight, part in of.models:
        start, added = _of_trees(part, requests, ads) if isinstance(part, Trees) else _of_linear(part, requests, ads)
        base += weight * start
        for name, kind, values in added:
            kinds = found.setdefault(name, {})
            kinds[kind] = kinds.get(kind, 0.0) + weight * values
    return base, found


def _of_trees(part: Trees, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> tuple[float, list[_Told]]:
    statistics, names = part.transform.statistics, part.transform.names
    features = part.transform(requests, ads)
    grown = contributions(part.ensemble, features)
    learned = [
        _Told(group.name, "statistics", features[:, place].astype(np.float64))
        for place, group in enumerate(statistics.groups)  # numbers add nothing by themselves
    ]
    found = [_Told(name, "trees", grown.columns[:, place]) for place, name in enumerate(names)]
    return statistics.base_logit + grown.base, learned + found


def _of_linear(part: LinearModel, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> tuple[float, list[_Told]]:
    places, filled = part.coordinates(requests, ads)
    *told, intercept = (part.weights[places] * filled).astype(np.float64)
    named = zip(part.coordinates.names, told, strict=True)
    return part.base + float(intercept[0]), [_Told(name, "regression", values) for name, values in named]


def _part(spec: PartSpec, files: Mapping[str, bytes]) -> Trees | LinearModel:
    if isinstance(spec, NetworkSpec):
        raise ValueError("a network does not fall apart into what its inputs add")
    if isinstance(spec, LinearSpec):
        return linear.restore(spec.features, npz.read(files[spec.arrays]))
    return Trees(bundle.transform(spec, files), leaves(onnx.load_from_string(files[spec.graph]).graph))


def _spec(files: Mapping[str, bytes]) -> BundleSpec:
    return msgspec.json.decode(files["feature_spec.json"], type=BundleSpec)
