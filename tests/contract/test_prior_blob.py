"""The blob of the prior: what the learner packs the bidder loads, and nothing else, whatever happens to the bytes."""

import numpy as np
import pytest

from dsp.cache.local import LocalBlobStore
from dsp.kernel.errors import BundleError
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.features.spec import FeatureSpec
from models.serving import online
from models.serving.linear import Coordinates, LinearModel
from models.serving.predictor import predict
from models.serving.prior import ConstantPredictor, OnlinePredictor

BITS = 12


def model(seed: int = 1, spec: FeatureSpec = PLATFORM) -> LinearModel:
    weights = np.random.default_rng(seed).normal(0.0, 0.1, 1 << BITS).astype(np.float32)
    return LinearModel(Coordinates(spec, BITS), weights, 0.0)


def golden() -> online.Golden:
    rng = np.random.default_rng(2)
    return online.Golden(rng.integers(0, 9, len(REQUEST_COLUMNS)), rng.integers(0, 9, (5, len(AD_COLUMNS))))


def packed() -> bytes:
    return online.pack(1_234, {"ctr": model(), "cvr": model(3)}, golden())


@pytest.mark.parametrize("names", [(), ("ctr",), ("cvr",), ("ctr", "cvr")])
def test_one_request_is_answered_as_its_rows_are(names: tuple[str, ...]) -> None:
    """And what is not learned yet is answered by what was there before."""
    models = {name: model(len(name) + ord(name[1])) if name in names else None for name in ("ctr", "cvr")}
    predictor = OnlinePredictor("v", models["ctr"], models["cvr"], ConstantPredictor())
    request, ads = golden()
    found, rows = predict(predictor, request, ads), predictor.predict_rows(request[np.newaxis], ads)
    before = ConstantPredictor().predict_rows(request[np.newaxis], ads)
    assert predictor.prepare(ads).version == "v"
    for name, one, other, constant in zip(("ctr", "cvr"), found, rows, before, strict=True):
        assert np.allclose(one, other, atol=1e-7)
        assert np.allclose(one, constant) is (name not in names)


async def test_what_is_published_is_what_is_loaded(tmp_path: object) -> None:
    blobs = LocalBlobStore(tmp_path)  # type: ignore[arg-type]
    await blobs.put(online.PRIOR_BLOB, packed())
    found = await blobs.get(online.PRIOR_BLOB)
    assert found is not None
    prior = online.load(found[1])
    assert (prior.version, prior.learned_to_ms) == ("online/1234", 1_234)
    assert prior.ctr is not None
    assert np.array_equal(prior.ctr.weights, model().weights)
    assert online.load(online.pack(1, {"ctr": model()}, golden())).cvr is None
    assert online.load(online.pack(1, {}, golden())).ctr is None


@pytest.mark.parametrize("step", [7, 101])
def test_no_damage_goes_unnoticed(step: int) -> None:
    blob = packed()
    for place in range(0, len(blob), len(blob) // step):
        flipped = bytes([*blob[:place], blob[place] ^ 1, *blob[place + 1 :]])
        for broken in (flipped, blob[:place]):
            with pytest.raises(BundleError):
                online.load(broken)
    with pytest.raises(BundleError):
        online.load(blob + b"x")


def test_whole_bytes_of_something_else_are_refused() -> None:
    arrays = online.unseal(packed())
    about = np.frombuffer(arrays["about"].tobytes().replace(PLATFORM.content_hash.encode(), b"0" * 16), np.uint8)
    nan, rates = np.full_like(arrays["ctr.weights"], np.nan), np.asarray(arrays["golden.rates"], dtype=np.float64)
    changes = {
        "of another spec": {"about": about},
        "not finite": {"ctr.weights": nan},
        "other rates": {"golden.rates": rates + 0.001},
        "fewer rates": {"golden.rates": rates[:, :2]},
        "other rows": {"golden.request": arrays["golden.request"][:5]},
        "another table": {"cvr.bits": np.array(BITS + 1)},
        "no ads": {"golden.ads": arrays["golden.ads"][:0]},
    }
    for change in changes.values():
        with pytest.raises(BundleError):
            online.load(online.seal({**arrays, **change}))
    for missing in arrays:
        with pytest.raises(BundleError):
            online.load(online.seal({name: array for name, array in arrays.items() if name != missing}))
    assert online.load(online.seal(arrays)).learned_to_ms == 1_234
