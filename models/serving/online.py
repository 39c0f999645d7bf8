"""What the online learner publishes and the bidder follows: two regressions in one blob, and how they are checked."""

import hashlib
import io
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, FEATURE_HASH, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving import linear, npz
from models.serving.linear import LinearModel
from models.serving.predictor import GOLDEN_TOLERANCE, predict
from models.serving.prior import ConstantPredictor, OnlinePredictor

#: The blob under which the prior is published.
PRIOR_BLOB = "prior"
#: Begins the version of an online prior; the instant up to which it has learned follows.
ONLINE = "online"
_DIGEST_BYTES = hashlib.sha256().digest_size
Arrays = Mapping[str, NDArray[np.generic]]


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a blob is of. `models` names the regressions in it; `learned_to_ms` is by the event log's clock."""

    feature_hash: str
    spec_hash: str
    learned_to_ms: int
    models: tuple[str, ...]


class Online(NamedTuple):
    """A prior that has passed all checks. A regression that has not learned enough to serve is None."""

    version: str
    learned_to_ms: int
    ctr: LinearModel | None
    cvr: LinearModel | None


class Golden(NamedTuple):
    """Rows of one impression, (R,), and of k ads, (k, A), that both sides must answer alike."""

    request: NDArray[np.int64]
    ads: NDArray[np.int64]


def seal(arrays: Arrays) -> bytes:
    """Return arrays as bytes that `unseal` takes only whole."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    data = buffer.getvalue()
    return hashlib.sha256(data).digest() + data


def unseal(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of sealed bytes.

    Raises:
        BundleError: they are not what was sealed.
    """
    digest, rest = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest:
        raise BundleError("not as it was written: the checksum is another")
    return npz.read(rest)


def pack(learned_to_ms: int, models: Mapping[str, LinearModel], golden: Golden) -> bytes:
    """Return the blob of the regressions `ctr` and `cvr`, or what of them is there."""
    about = About(FEATURE_HASH, PLATFORM.content_hash, learned_to_ms, tuple(models))
    arrays = {f"{name}.{part}": array for name, model in models.items() for part, array in model.arrays().items()}
    expected = predict(_predictor(models), golden.request, golden.ads)
    return seal(
        {
            "about": np.frombuffer(msgspec.json.encode(about), dtype=np.uint8),
            "golden.request": golden.request,
            "golden.ads": golden.ads,
            "golden.rates": np.stack(expected),
            **arrays,
        }
    )


def load(data: bytes) -> Online:
    """Return the prior of a blob, proven on its golden rows.

    Raises:
        BundleError: corrupt, made for other features, or not reproducing its golden rows.
    """
    try:
        arrays = unseal(data)
        about = msgspec.json.decode(arrays["about"].tobytes(), type=About)
        if (about.feature_hash, about.spec_hash) != (FEATURE_HASH, PLATFORM.content_hash):
            raise BundleError(f"made for features {about.feature_hash}, spec {about.spec_hash}")
        models = {name: linear.restore(PLATFORM, _part(arrays, name)) for name in about.models}
        if len({model.coordinates.bits for model in models.values()}) > 1:
            raise BundleError("regressions of different tables")
        _check(models, arrays)
    except (KeyError, ValueError, TypeError, msgspec.DecodeError) as fault:
        raise BundleError(f"prior: {type(fault).__name__}: {fault}") from fault
    return Online(f"{ONLINE}/{about.learned_to_ms}", about.learned_to_ms, models.get("ctr"), models.get("cvr"))


def _part(arrays: Arrays, name: str) -> dict[str, NDArray[np.generic]]:
    return {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{name}.")}


def _predictor(models: Mapping[str, LinearModel]) -> OnlinePredictor:
    return OnlinePredictor("golden", models.get("ctr"), models.get("cvr"), ConstantPredictor())


def _check(models: Mapping[str, LinearModel], arrays: Arrays) -> None:
    request, ads = (np.asarray(arrays[f"golden.{side}"], dtype=np.int64) for side in ("request", "ads"))
    if request.shape != (len(REQUEST_COLUMNS),) or ads.shape[1:] != (len(AD_COLUMNS),) or not len(ads):
        raise BundleError("golden rows have another shape")
    found = np.stack(predict(_predictor(models), request, ads))
    rates = np.asarray(arrays["golden.rates"], dtype=np.float64)
    if found.shape != rates.shape or not np.allclose(found, rates, rtol=0, atol=GOLDEN_TOLERANCE):
        raise BundleError("golden rows give other probabilities")
