"""A model bundle: what its files are, and how they become predictors once every check has passed."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.features.spec import FeatureSpec, Match
from models.serving import linear, network, npz
from models.serving.calibration import CalibrationSpec
from models.serving.calibration import restore as restore_calibration
from models.serving.onnx import FEATURE_HASH_KEY, OnnxModel
from models.serving.predictor import GOLDEN_TOLERANCE, BatchPredictor, BatchScorer, Predictor
from models.serving.prior import PriorPredictor
from models.serving.rate import ModelPredictor, Part, Rate
from models.serving.session import CPU, Device
from models.serving.statistics import Description, Statistics, restore
from models.serving.transform import Transform

CHAMPION = "champion"
PREVIOUS = "previous"
#: Predicts in shadow: it is compared with the champion and has no say in bids.
CHALLENGER = "challenger"


class StatisticsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics, and the name of the file that holds their table."""

    table: str
    description: Description


class TreesSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="trees"):
    """Trees on statistics, numbers and matches. `graph` is a file's name."""

    graph: str
    statistics: StatisticsSpec
    request_numbers: tuple[str, ...]
    ad_numbers: tuple[str, ...]
    matches: tuple[Match, ...]


class LinearSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    """A table of weights for what `features` name. `arrays` is a file's name."""

    arrays: str
    features: FeatureSpec


class NetworkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="network"):
    """One head of a network, whose files are named as models.serving.network names them, after `prefix`."""

    prefix: str
    head: int


PartSpec = TreesSpec | LinearSpec | NetworkSpec
#: Networks of a bundle by the prefix of their files.
Networks = dict[str, network.NetworkModel]


class RateSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One probability: its parts by name, and how much each weighs. calibration.json holds the rest."""

    parts: dict[str, PartSpec]
    weights: dict[str, float]


class BundleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """feature_spec.json: the raw columns the bundle was trained on, and what each model makes of them."""

    feature_hash: str
    request_columns: tuple[str, ...]
    ad_columns: tuple[str, ...]
    ctr: RateSpec
    cvr: RateSpec | None  # None: conversion rates are the prior's
    prior_ctr: StatisticsSpec
    prior_cvr: StatisticsSpec


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


def assemble(version: str, files: Mapping[str, bytes], device: Device = CPU) -> Bundle:
    """Return the predictors of a bundle's files, proven on its golden rows. Raises BundleError as `load` does."""
    found = predictor(version, files, device)
    try:
        goldens = msgspec.json.decode(files["golden.json"], type=list[Golden])
        manifest = msgspec.json.decode(files.get(registry.MANIFEST, b"{}"), type=dict[str, Any])
        spec = msgspec.json.decode(files["feature_spec.json"], type=BundleSpec)
        prior_ctr, prior_cvr = (statistics(one, files) for one in (spec.prior_ctr, spec.prior_cvr))
    except (KeyError, ValueError, msgspec.DecodeError) as fault:
        raise BundleError(f"{version}: {type(fault).__name__}: {fault}") from fault
    _check_golden(version, found, goldens)
    return Bundle(version, manifest, found, PriorPredictor(prior_ctr, prior_cvr, f"{version}/prior"))


def predictor(version: str, files: Mapping[str, bytes], device: Device = CPU) -> ModelPredictor:
    """Return the predictor of a bundle's files, whose golden rows need not be there yet.

    Raises:
        BundleError: incomplete, corrupt, or made for other features.
    """
    try:
        spec = msgspec.json.decode(files["feature_spec.json"], type=BundleSpec)
        calibrations = msgspec.json.decode(files["calibration.json"], type=dict[str, CalibrationSpec])
        _check_features(version, spec)
        known: Networks = {}
        ctr = _rate(spec.ctr, files, calibrations["ctr"], device, known)
        if spec.cvr is None:
            return ModelPredictor(version, ctr, statistics(spec.prior_cvr, files))
        return ModelPredictor(version, ctr, _rate(spec.cvr, files, calibrations["cvr"], device, known))
    except (KeyError, ValueError, msgspec.DecodeError) as fault:
        raise BundleError(f"{version}: {type(fault).__name__}: {fault}") from fault


def _check_features(version: str, spec: BundleSpec) -> None:
    if spec.feature_hash != FEATURE_HASH or (spec.request_columns, spec.ad_columns) != (REQUEST_COLUMNS, AD_COLUMNS):
        raise BundleError(f"{version}: made for features {spec.feature_hash}, ours are {FEATURE_HASH}")


def statistics(spec: StatisticsSpec, files: Mapping[str, bytes]) -> Statistics:
    """Return the statistics of a bundle's files. Raises KeyError and ValueError where they are not as described."""
    table: NDArray[np.void] = np.load(io.BytesIO(files[spec.table]), allow_pickle=False)
    return restore(spec.description, table)


def transform(spec: TreesSpec, files: Mapping[str, bytes]) -> Transform:
    """Return what makes the inputs of trees. Raises as `statistics` does."""
    return Transform(statistics(spec.statistics, files), spec.request_numbers, spec.ad_numbers, spec.matches)


def _rate(
    spec: RateSpec, files: Mapping[str, bytes], calibration: CalibrationSpec, device: Device, known: Networks
) -> Rate:
    if spec.weights.keys() != spec.parts.keys():
        raise ValueError("weights are of other parts")
    parts = [part(told, files, device, known)._replace(weight=spec.weights[name]) for name, told in spec.parts.items()]
    return Rate(parts, restore_calibration(calibration))


def part(spec: PartSpec, files: Mapping[str, bytes], device: Device = CPU, known: Networks | None = None) -> Part:
    """Return one part of a rate, with a weight of 1.

    `known` are the networks read so far, by prefix, and gets those that are read now: both heads of one run it once.

    Raises:
        BundleError: ONNX Runtime refuses the graph, or it was made for other features.
        KeyError: a file is missing.
        ValueError: a file is not as described.
    """
    if isinstance(spec, LinearSpec):
        return Part(linear.restore(spec.features, npz.read(files[spec.arrays])))
    if isinstance(spec, NetworkSpec):
        return _network(spec, files, device, {} if known is None else known)
    return _trees(spec, files, device)


def _trees(spec: TreesSpec, files: Mapping[str, bytes], device: Device) -> Part:
    inputs = transform(spec, files)
    try:
        model = OnnxModel(files[spec.graph], inputs, device)
    except Exception as fault:  # ONNX Runtime's errors have no common base of their own
        raise BundleError(f"{spec.graph}: {fault}") from fault
    if model.metadata.get(FEATURE_HASH_KEY) != FEATURE_HASH:
        raise BundleError(f"{spec.graph}: made for features {model.metadata.get(FEATURE_HASH_KEY)}")
    return Part(model)


def _network(spec: NetworkSpec, files: Mapping[str, bytes], device: Device, known: Networks) -> Part:
    own = {name: files[spec.prefix + name] for name in network.FILES}
    try:
        model = known.get(spec.prefix) or network.restore(own, device)
    except Exception as fault:  # as above
        raise BundleError(f"{spec.prefix}{network.GRAPH}: {fault}") from fault
    known[spec.prefix] = model
    layout = model.inputs.layout
    if (layout.request.columns, layout.ad.columns) != (REQUEST_COLUMNS, AD_COLUMNS) or spec.head >= network.HEADS:
        raise BundleError(f"{spec.prefix}{network.GRAPH}: made for other columns, or has no head {spec.head}")
    return Part(network.NetworkHead(model, spec.head), provider=model.session.provider)


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
