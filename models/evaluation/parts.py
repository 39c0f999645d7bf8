"""A bundle taken apart: the statistics and the trees of each rate, to look into what is served."""

import io
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import onnx

from models.evaluation.trees import Leaf, leaves
from models.serving.bundle import BundleSpec, ModelSpec
from models.serving.calibration import CalibrationSpec, HierarchicalCalibration
from models.serving.calibration import restore as restore_calibration
from models.serving.statistics import Statistics, restore
from models.serving.transform import Transform

Rate = Literal["ctr", "cvr"]


class Parts(NamedTuple):
    """A model of statistics and trees: inputs, the trees' leaves, calibration."""

    transform: Transform
    ensemble: list[Leaf]
    calibration: HierarchicalCalibration


def model(files: Mapping[str, bytes], rate: Rate) -> Parts | Statistics:
    """Return what gives a rate: a model, or statistics alone.

    Raises:
        ValueError: the bundle's models are of another kind.
    """
    spec = _spec(files)
    described = spec.ctr if rate == "ctr" else spec.cvr
    if described is None:
        return prior(files, rate)
    calibration = msgspec.json.decode(files["calibration.json"], type=dict[str, CalibrationSpec])[rate]
    statistics = _statistics(described, files)
    return Parts(
        Transform(statistics, described.request_numbers, described.ad_numbers, described.matches),
        leaves(onnx.load_from_string(files[described.model or ""]).graph),
        restore_calibration(calibration),
    )


def prior(files: Mapping[str, bytes], rate: Rate) -> Statistics:
    """Return what gives a rate when there is no time for the model. Raises ValueError as `model` does."""
    spec = _spec(files)
    return _statistics(spec.prior_ctr if rate == "ctr" else spec.prior_cvr, files)


def _spec(files: Mapping[str, bytes]) -> BundleSpec:
    return msgspec.json.decode(files["feature_spec.json"], type=BundleSpec)


def _statistics(spec: ModelSpec, files: Mapping[str, bytes]) -> Statistics:
    return restore(spec.description, np.load(io.BytesIO(files[spec.statistics]), allow_pickle=False))
