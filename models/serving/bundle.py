"""A model bundle: what its files are, and how they become predictors once every check has passed."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.features.spec import Match
from models.serving.calibration import CalibrationSpec
from models.serving.calibration import restore as restore_calibration
from models.serving.onnx import FEATURE_HASH_KEY, OnnxModel, OnnxPredictor
from models.serving.predictor import BatchPredictor, BatchScorer, Predictor
from models.serving.prior import PriorPredictor
from models.serving.session import CPU, Device
from models.serving.statistics import Description, Statistics, restore
from models.serving.transform import Transform

CHAMPION = "champion"
PREVIOUS = "previous"
#: Predicts in shadow: it is compared with the champion and has no say in bids.
CHALLENGER = "challenger"
#: Golden rows are reproduced this closely, absolutely, on every machine.
GOLDEN_TOLERANCE = 1e-5


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one probability is made. `model` and `statistics` are file names; without `model` the statistics are all."""

    statistics: str
    description: Description
    model: str | None = None
    request_numbers: tuple[str, ...] = ()
    ad_numbers: tuple[str, ...] = ()
    matches: tuple[Match, ...] = ()


class BundleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """feature_spec.json: the raw columns the bundle was trained on, and what each model makes of them."""

    feature_hash: str
    request_columns: tuple[str, ...]
    ad_columns: tuple[str, ...]
    ctr: ModelSpec
    cvr: ModelSpec | None  # None: conversion rates are the prior's
    prior_ctr: ModelSpec
    prior_cvr: ModelSpec


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """golden.json: raw rows of one impression's candidates, and the probabilities expected for them."""

    request: list[int]
    ads: list[list[int]]
    pctr: list[float]
    pcvr: list[float]


class Bundle(msgspec.Struct, frozen=True):
    """A bundle ready to serve. `prior` is what to answer with when there is no time for `predictor`."""

    version: str
    manifest: dict[str, Any]
    predictor: BatchPredictor
    prior: BatchPredictor


def load(root: Path, version: str, device: Device = CPU) -> Bundle:
    """Read a version from the registry, verify it, and warm it up on its golden rows, where it is to run.

    Raises:
        BundleError: incomplete, tampered with, made for other features, or not reproducing its golden rows.
    """
    return assemble(version, registry.read(root, version), device)


def assemble(version: str, files: dict[str, bytes], device: Device = CPU) -> Bundle:
    """Return the predictors of a bundle's files, proven on its golden rows. Raises BundleError as `load` does."""
    found = predictor(version, files, device)
    try:
        goldens = msgspec.json.decode(files["golden.json"], type=list[Golden])
        manifest = msgspec.json.decode(files.get(registry.MANIFEST, b"{}"), type=dict[str, Any])
        spec = msgspec.json.decode(files["feature_spec.json"], type=BundleSpec)
        prior_ctr, prior_cvr = (_statistics(part, files) for part in (spec.prior_ctr, spec.prior_cvr))
    except (KeyError, ValueError, msgspec.DecodeError) as fault:
        raise BundleError(f"{version}: {type(fault).__name__}: {fault}") from fault
    _check_golden(version, found, goldens)
    return Bundle(version, manifest, found, PriorPredictor(prior_ctr, prior_cvr, f"{version}/prior"))


def predictor(version: str, files: dict[str, bytes], device: Device = CPU) -> OnnxPredictor:
    """Return the predictor of a bundle's files, whose golden rows need not be there yet.

    Raises:
        BundleError: incomplete, corrupt, or made for other features.
    """
    try:
        spec = msgspec.json.decode(files["feature_spec.json"], type=BundleSpec)
        calibrations = msgspec.json.decode(files["calibration.json"], type=dict[str, CalibrationSpec])
        _check_features(version, spec)
        ctr = _model(spec.ctr, files, calibrations["ctr"], device)
        if spec.cvr is None:
            return OnnxPredictor(version, ctr, _statistics(spec.prior_cvr, files))
        return OnnxPredictor(version, ctr, _model(spec.cvr, files, calibrations["cvr"], device))
    except (KeyError, ValueError, msgspec.DecodeError) as fault:
        raise BundleError(f"{version}: {type(fault).__name__}: {fault}") from fault


def _check_features(version: str, spec: BundleSpec) -> None:
    if spec.feature_hash != FEATURE_HASH or (spec.request_columns, spec.ad_columns) != (REQUEST_COLUMNS, AD_COLUMNS):
        raise BundleError(f"{version}: made for features {spec.feature_hash}, ours are {FEATURE_HASH}")


def _statistics(spec: ModelSpec, files: dict[str, bytes]) -> Statistics:
    return restore(spec.description, _table(files[spec.statistics]))


def _table(data: bytes) -> NDArray[np.void]:
    table: NDArray[np.void] = np.load(io.BytesIO(data), allow_pickle=False)
    return table


def _model(spec: ModelSpec, files: dict[str, bytes], calibration: CalibrationSpec, device: Device) -> OnnxModel:
    if spec.model is None:
        raise ValueError("a model's file is not named")
    transform = Transform(_statistics(spec, files), spec.request_numbers, spec.ad_numbers, spec.matches)
    try:
        model = OnnxModel(files[spec.model], transform, restore_calibration(calibration), device)
    except Exception as fault:  # ONNX Runtime's errors have no common base of their own
        raise BundleError(f"{spec.model}: {fault}") from fault
    if model.metadata.get(FEATURE_HASH_KEY) != FEATURE_HASH:
        raise BundleError(f"{spec.model}: made for features {model.metadata.get(FEATURE_HASH_KEY)}")
    return model


def _check_golden(version: str, predictor: Predictor, goldens: list[Golden]) -> None:
    if not goldens:
        raise BundleError(f"{version}: has no golden rows")
    for number, golden in enumerate(goldens):
        request = np.array(golden.request, dtype=np.int64)
        ads = np.array(golden.ads, dtype=np.int64)
        if request.shape != (len(REQUEST_COLUMNS),) or ads.shape[1:] != (len(AD_COLUMNS),):
            raise BundleError(f"{version}: golden row {number} has another shape")
        for expected, values in _expectations(predictor, golden, request, ads):
            if len(expected) != len(values) or not np.allclose(values, expected, rtol=0, atol=GOLDEN_TOLERANCE):
                raise BundleError(f"{version}: golden row {number} gives other probabilities")


def _expectations(
    predictor: Predictor, golden: Golden, request: NDArray[np.int64], ads: NDArray[np.int64]
) -> Iterator[tuple[list[float], NDArray[np.float64]]]:
    """Yield what is expected beside what is found: for the impression alone and, where it will be, in a batch."""
    scorer, chosen = predictor.prepare(ads), np.arange(len(ads), dtype=np.int64)
    answers = [scorer.predict(request, chosen)]
    if isinstance(scorer, BatchScorer):
        answers += scorer.run([scorer.stage(request, chosen)])
    for found in answers:
        yield golden.pctr, found.pctr
        yield golden.pcvr, found.pcvr
