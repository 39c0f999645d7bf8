"""Bundles of every kind of model: what the bidder would serve is what was trained."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from dsp.kernel.errors import BundleError
from loadtest.bids.model import drawn_inputs
from models.evaluation import contributions, importance, parts
from models.evaluation.contributions import Row
from models.evaluation.names import Names
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving import bundle
from models.serving.linear import LinearModel
from models.serving.network import GRAPH
from models.serving.network import NetworkHead as ServedHead
from models.serving.predictor import predict
from models.serving.rate import ModelPredictor, Rate
from models.serving.statistics import sigmoid
from models.training import calibrate, ensemble, gbdt, package
from models.training.blend import Blend
from models.training.config import TrainingConfig
from models.training.families import Learned, NetworkHead
from models.training.network_export import NetworkShape, random_weights
from models.training.network_model import Network
from models.training.rows import Rows

CONFIG = TrainingConfig(rounds_max=20, families=("ftrl", "gbdt"), gate_resamples=50)
SEGMENTS = [place for place, name in enumerate(REQUEST_COLUMNS) if name.startswith("segment_")]
CATEGORIES = [place for place, name in enumerate(AD_COLUMNS) if name.startswith("ad_category_")]
KINDS = (("ftrl",), ("gbdt",), ("network",), ("ftrl", "gbdt"), ("ftrl", "gbdt", "network"))


def made(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    requests = rng.integers(0, 6, (count, len(REQUEST_COLUMNS)))
    ads = rng.integers(1, 6, (count, len(AD_COLUMNS)))
    matches = (requests[:, SEGMENTS, None] == ads[:, None, CATEGORIES]).sum(axis=(1, 2))
    logits = -3.5 + 0.8 * matches
    return Rows(np.arange(count) * 10, requests, ads, rng.random(count) < sigmoid(logits), np.ones(count))


def network(rows: Rows) -> NetworkHead:
    """Return a network that has learned nothing, but differs by all it is told."""
    inputs = drawn_inputs(rows, 5)
    weights = random_weights(NetworkShape(inputs.layout.width, 2, 8, (32, 16)), seed=2)
    return NetworkHead(Network(inputs, weights, PLATFORM.content_hash, 0).shifted(-2.0))


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made(4_000, 1)


@pytest.fixture(scope="module")
def learned(rows: Rows) -> dict[str, Learned]:
    walked = ensemble.walk(rows, PLATFORM, 0.05, CONFIG)
    fitted = ensemble.fit(rows, PLATFORM, 0.05, walked, ["ftrl", "gbdt"], CONFIG)
    return {**fitted.models, "network": network(rows)}


def rate(learned: Mapping[str, Learned], kinds: tuple[str, ...], rows: Rows) -> package.Rate:
    weights = {kind: 1.0 / len(kinds) for kind in kinds}
    said = np.sum([learned[kind].logits(rows.requests, rows.ads) / len(kinds) for kind in kinds], axis=0)
    return package.Rate(learned, Blend(weights, calibrate.fit_hierarchy(said, rows, PLATFORM)))


def packed(learned: Mapping[str, Learned], kinds: tuple[str, ...], rows: Rows) -> tuple[dict[str, bytes], package.Rate]:
    """Return the bundle of click rates of these kinds; conversions are said by the same models."""
    made_of = rate(learned, kinds, rows)
    prior = gbdt.fit_statistics(PLATFORM.hierarchy, rows, PLATFORM, 0.05)[0]
    return package.pack(package.Fitted(made_of, made_of, prior, prior), rows), made_of


def log_odds(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.log(rates) - np.log1p(-rates)
    return found


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_what_is_served_is_what_was_trained(learned: dict[str, Learned], kinds: tuple[str, ...], rows: Rows) -> None:
    files, trained = packed(learned, kinds, rows)
    served = bundle.assemble("v", files).predictor
    assert isinstance(served, ModelPredictor)
    later = made(500, 2)
    said = {kind: learned[kind].logits(later.requests, later.ads) for kind in kinds}
    expected = log_odds(trained.blend(said, later.requests, later.ads))
    tolerance = 1e-9 if kinds == ("ftrl",) else 1e-5  # graphs compute in single precision
    found = served.predict_rows(later.requests, later.ads)
    assert np.abs(log_odds(found.pctr) - expected).max() < tolerance
    assert np.array_equal(found.pctr, found.pcvr)
    for number in range(10):
        alone = predict(served, later.requests[number], later.ads[:7]).pctr
        together = served.predict_rows(later.requests[number : number + 1], later.ads[:7]).pctr
        assert np.abs(log_odds(alone) - log_odds(together)).max() < 1e-5


def test_a_network_that_gives_both_rates_is_packed_and_loaded_once(learned: dict[str, Learned], rows: Rows) -> None:
    files, _ = packed(learned, ("network",), rows)
    assert [name for name in files if name.endswith(GRAPH)] == [f"ctr_network_{GRAPH}"]
    served = bundle.predictor("v", files)
    assert isinstance(served.cvr, Rate)
    one, other = (rate.parts[0].model for rate in (served.ctr, served.cvr))
    assert isinstance(one, ServedHead)
    assert isinstance(other, ServedHead)
    assert one.network is other.network


def test_files_that_do_not_fit_are_refused(learned: dict[str, Learned], rows: Rows) -> None:
    files, _ = packed(learned, ("ftrl", "gbdt", "network"), rows)
    spec = files["feature_spec.json"]
    for name, data in {
        "ctr_ftrl.npz": b"rubbish",
        "ctr_network_network.onnx": files["ctr_gbdt.onnx"],
        "ctr_network_network.json": files["ctr_network_network.json"].replace(b'"domain"', b'"nothing"'),
        "feature_spec.json": spec.replace(b'"prefix": "ctr_', b'"prefix": "elsewhere_'),
        "calibration.json": b"{}",
    }.items():
        assert files[name] != data
        with pytest.raises(BundleError):
            bundle.assemble("v", {**files, name: data})
    lacking = {name: data for name, data in files.items() if name != "ctr_ftrl.npz"}
    with pytest.raises(BundleError, match=r"ctr_ftrl\.npz"):
        bundle.assemble("v", lacking)


def test_a_bundle_that_says_other_than_was_trained_is_not_packed(learned: dict[str, Learned], rows: Rows) -> None:
    class Other(LinearModel):
        """Says a little more than what its weights make up."""

        def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
            return super().logits(requests, ads) + 1e-3

    model = learned["ftrl"]
    assert isinstance(model, LinearModel)
    other = Other(model.coordinates, model.weights, model.base)
    with pytest.raises(BundleError, match="differ"):
        packed({**learned, "ftrl": other}, ("ftrl",), rows)


@pytest.mark.parametrize("kinds", [("ftrl",), ("gbdt",), ("ftrl", "gbdt")], ids="+".join)
def test_what_falls_apart_is_explained_exactly(learned: dict[str, Learned], kinds: tuple[str, ...], rows: Rows) -> None:
    files, _ = packed(learned, kinds, rows)
    served = bundle.assemble("v", files).predictor
    model = parts.model(files, "ctr")
    assert isinstance(model, parts.Parts)
    expected = log_odds(served.predict_rows(rows.requests[:20], rows.ads[:20]).pctr)
    for number, given in enumerate(expected):
        told = contributions.of_model(model, Row(rows.requests[number], rows.ads[number]), PLATFORM, Names())
        total = told.base + sum(term.log_odds for term in told.terms) + told.calibration
        assert abs(total - given) < 1e-5
    most = importance.spread_of(files, rows)[0]
    assert most.name == "segment_x_ad_category"
    assert most.parts.keys() == {
        kind for part in kinds for kind in {"ftrl": ("regression",)}.get(part, ("statistics", "trees"))
    }


def test_a_network_is_not_taken_apart(learned: dict[str, Learned], rows: Rows) -> None:
    files, _ = packed(learned, ("gbdt", "network"), rows)
    with pytest.raises(ValueError, match="network"):
        parts.model(files, "ctr")
    assert importance.spread_of(files, rows) == []
