"""Packs fitted models into a bundle's files, and proves that what will be served equals what was trained."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.serving import bundle, npz
from models.serving.bundle import (
    BundleSpec,
    Golden,
    LinearSpec,
    NetworkSpec,
    PartSpec,
    RateSpec,
    StatisticsSpec,
    TreesSpec,
)
from models.serving.linear import LinearModel
from models.serving.network import GRAPH
from models.serving.predictor import predict
from models.serving.statistics import Description, Statistics
from models.training.blend import Blend
from models.training.export import to_onnx
from models.training.families import Learned, NetworkHead
from models.training.network_model import Network
from models.training.rows import Rows

#: What is served and what was trained may differ by so much in log-odds: ONNX computes in single precision.
PARITY_TOLERANCE = 1e-5
_GOLDEN_REQUESTS = 4
_GOLDEN_ADS = 16
_PARITY_ROWS = 5_000


class Rate(NamedTuple):
    """What gives a probability: models by the kind, and how they are put together."""

    models: Mapping[str, Learned]
    blend: Blend


@dataclass(frozen=True, slots=True)
class Fitted:
    """All that a bundle serves. `cvr` is None where conversion rates are the prior's."""

    ctr: Rate
    cvr: Rate | None
    prior_ctr: Statistics
    prior_cvr: Statistics


def pack(fitted: Fitted, rows: Rows) -> dict[str, bytes]:
    """Return the bundle's files. `rows` are impressions to prove parity on and to take golden rows from.

    Raises:
        BundleError: what is read from the files does not say what was trained.
    """
    files: dict[str, bytes] = {}
    rates: Mapping[str, Rate | None] = {"ctr": fitted.ctr, "cvr": fitted.cvr}
    specs = {name: _add_rate(files, name, rate, rows) for name, rate in rates.items() if rate is not None}
    spec = BundleSpec(
        feature_hash=FEATURE_HASH,
        request_columns=REQUEST_COLUMNS,
        ad_columns=AD_COLUMNS,
        ctr=specs["ctr"],
        cvr=specs.get("cvr"),
        prior_ctr=_add_statistics(files, "prior_ctr", fitted.prior_ctr),
        prior_cvr=_add_statistics(files, "prior_cvr", fitted.prior_cvr),
    )
    calibrations = {name: rate.blend.calibration.spec() for name, rate in rates.items() if rate is not None}
    files["feature_spec.json"] = _json(spec)
    files["calibration.json"] = _json(calibrations)
    files["golden.json"] = _json(_golden(files, rows))
    bundle.assemble("unpublished", files)
    return files


def _add_rate(files: dict[str, bytes], rate: str, made: Rate, rows: Rows) -> RateSpec:
    specs = {name: _add_model(files, f"{rate}_{name}", made.models[name]) for name in made.blend.weights}
    few = rows[slice(0, _PARITY_ROWS)]
    for name, spec in specs.items():
        served = bundle.part(spec, files).model.logits(few.requests, few.ads)
        distance = float(np.abs(served - made.models[name].logits(few.requests, few.ads)).max(initial=0.0))
        if distance > PARITY_TOLERANCE:
            raise BundleError(f"{rate}_{name}: served log-odds differ by {distance:.2e} from those that were trained")
    return RateSpec(specs, dict(made.blend.weights))


def _add_model(files: dict[str, bytes], name: str, model: Learned) -> PartSpec:
    """Add a model's files, whose names begin with `name`; return how it is read from them."""
    if isinstance(model, LinearModel):
        files[f"{name}.npz"] = npz.write(model.arrays())
        return LinearSpec(f"{name}.npz", model.coordinates.spec)
    if isinstance(model, NetworkHead):
        return NetworkSpec(_add_network(files, name, model.network), model.head)
    files[f"{name}.onnx"] = to_onnx(model, name)
    inputs = model.transform
    statistics = _add_statistics(files, name, inputs.statistics)
    return TreesSpec(f"{name}.onnx", statistics, inputs.request_numbers, inputs.ad_numbers, inputs.matches)


def _add_network(files: dict[str, bytes], name: str, network: Network) -> str:
    """Add a network's files, unless they are there for its other head; return what their names begin with."""
    own = network.files()
    there = [file.removesuffix(GRAPH) for file, data in files.items() if data == own[GRAPH]]
    for prefix in there:
        if all(files.get(prefix + file) == data for file, data in own.items()):
            return prefix
    files.update({f"{name}_{file}": data for file, data in own.items()})
    return f"{name}_"


def _add_statistics(files: dict[str, bytes], name: str, statistics: Statistics) -> StatisticsSpec:
    file = f"statistics_{name}.npy"
    buffer = io.BytesIO()
    np.save(buffer, statistics.table(), allow_pickle=False)
    files[file] = buffer.getvalue()
    return StatisticsSpec(file, Description(statistics.base_logit, statistics.groups))


def _golden(files: dict[str, bytes], rows: Rows) -> list[Golden]:
    """Score a few impressions with the ads seen, as the bundle itself does it."""
    ads = np.unique(rows.ads, axis=0)[:_GOLDEN_ADS]
    predictor = bundle.predictor("unpublished", files)
    golden = []
    for place in np.linspace(0, len(rows) - 1, _GOLDEN_REQUESTS, dtype=np.intp):
        found = predict(predictor, rows.requests[place], ads)
        golden.append(Golden(rows.requests[place].tolist(), ads.tolist(), found.pctr.tolist(), found.pcvr.tolist()))
    return golden


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)
