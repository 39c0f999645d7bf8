"""Packs fitted models into a bundle's files, and proves that what will be served equals what was trained."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.serving import bundle
from models.serving.bundle import BundleSpec, Golden, ModelSpec
from models.serving.onnx import OnnxModel
from models.serving.predictor import predict
from models.serving.statistics import Description, Statistics
from models.training.export import to_onnx
from models.training.gbdt import Model
from models.training.rows import Rows

#: ONNX and LightGBM may differ by so much in log-odds.
PARITY_TOLERANCE = 1e-5
_GOLDEN_REQUESTS = 4
_GOLDEN_ADS = 16
_PARITY_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Fitted:
    """All that a bundle serves. `cvr` is None where conversion rates are the prior's."""

    ctr: Model
    cvr: Model | None
    prior_ctr: Statistics
    prior_cvr: Statistics


def pack(fitted: Fitted, rows: Rows) -> dict[str, bytes]:
    """Return the bundle's files. `rows` are impressions to prove parity on and to take golden rows from.

    Raises:
        BundleError: ONNX does not reproduce the native model.
    """
    files: dict[str, bytes] = {}
    spec = BundleSpec(
        feature_hash=FEATURE_HASH,
        request_columns=REQUEST_COLUMNS,
        ad_columns=AD_COLUMNS,
        ctr=_add_model(files, "ctr", "model.onnx", fitted.ctr, rows),
        cvr=_add_model(files, "cvr", "cvr.onnx", fitted.cvr, rows) if fitted.cvr is not None else None,
        prior_ctr=_add_statistics(files, "prior_ctr", fitted.prior_ctr),
        prior_cvr=_add_statistics(files, "prior_cvr", fitted.prior_cvr),
    )
    models: Mapping[str, Model | None] = {"ctr": fitted.ctr, "cvr": fitted.cvr}
    calibrations = {name: model.calibration.spec() for name, model in models.items() if model is not None}
    files["feature_spec.json"] = _json(spec)
    files["calibration.json"] = _json(calibrations)
    files["golden.json"] = _json(_golden(files, rows))
    bundle.assemble("unpublished", files)
    return files


def _add_model(files: dict[str, bytes], name: str, file: str, model: Model, rows: Rows) -> ModelSpec:
    files[file] = to_onnx(model, name)
    part = rows[slice(0, _PARITY_ROWS)]
    served = OnnxModel(files[file], model.transform, model.calibration).logits(part.requests, part.ads)
    distance = float(np.abs(served - model.logits(part.requests, part.ads)).max(initial=0.0))
    if distance > PARITY_TOLERANCE:
        raise BundleError(f"{file}: ONNX differs from LightGBM by {distance:.2e} in log-odds")
    spec = _add_statistics(files, name, model.transform.statistics)
    transform = model.transform
    numbers = {"request_numbers": transform.request_numbers, "ad_numbers": transform.ad_numbers}
    return msgspec.structs.replace(spec, model=file, matches=transform.matches, **numbers)


def _add_statistics(files: dict[str, bytes], name: str, statistics: Statistics) -> ModelSpec:
    file = f"statistics_{name}.npy"
    buffer = io.BytesIO()
    np.save(buffer, statistics.table(), allow_pickle=False)
    files[file] = buffer.getvalue()
    return ModelSpec(statistics=file, description=Description(statistics.base_logit, statistics.groups))


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
