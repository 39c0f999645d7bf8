"""Training of the network: it learns what it should, from what it should, and serves what PyTorch computes."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.serving.network import ARRAYS, GRAPH, LAYOUT, restore
from models.serving.statistics import sigmoid
from models.training.rows import Rows
from tests.unit.models.network_cases import AD_COLUMNS, REQUEST_COLUMNS, SMALL, SPEC, made

pytest.importorskip("torch", reason="PyTorch (extra `deep`) is not installed")

from models.training.network import Trainer, fit
from models.training.network_export import to_onnx
from models.training.network_model import Network


def of_request(rows: Rows, name: str) -> NDArray[np.int64]:
    return rows.requests[:, REQUEST_COLUMNS.index(name)]


def of_ad(rows: Rows, name: str) -> NDArray[np.int64]:
    return rows.ads[:, AD_COLUMNS.index(name)]


def labelled(rows: Rows, rates: NDArray[np.float64], seed: int) -> Rows:
    return replace(rows, labels=np.random.default_rng(seed).random(len(rows)) < rates)


def ctr(network: Network, rows: Rows) -> NDArray[np.float64]:
    return sigmoid(network.logits(rows.requests, rows.ads)[:, 0])


def cvr(network: Network, rows: Rows) -> NDArray[np.float64]:
    return sigmoid(network.logits(rows.requests, rows.ads)[:, 1])


def log_loss(rates: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    return float(-np.log(np.where(labels, rates, 1.0 - rates)).mean())


def odd(rows: Rows) -> NDArray[np.float64]:
    """Return rates that depend on site and campaign together, and on neither alone."""
    return np.where((of_request(rows, "site") + of_ad(rows, "campaign")) % 2 == 1, 0.45, 0.05)


def paired(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    drawn = made(8_000, seed, {"site": rng.integers(1, 13, 8_000), "campaign": rng.integers(1, 9, 8_000)})
    return labelled(drawn, odd(drawn), seed + 1)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return paired(1)


@pytest.fixture(scope="module")
def network(rows: Rows) -> Network:
    return fit(rows, SPEC, SMALL)


def test_learns_an_interaction_that_a_linear_model_cannot(network: Network) -> None:
    later = paired(11)
    base = log_loss(np.full(len(later), later.labels.mean()), later.labels)  # what a sum over values can reach
    best = log_loss(odd(later), later.labels)
    assert log_loss(ctr(network, later), later.labels) < best + 0.4 * (base - best)


def test_serves_what_pytorch_computes(rows: Rows) -> None:
    trainer = Trainer(rows, SPEC, SMALL, rows.labels)
    trainer.repeat(100)
    part = slice(5_000, 5_500)
    expected = trainer.logits(part)
    network = trainer.network(100)
    requests, ads = rows.requests[part], rows.ads[part]
    np.testing.assert_allclose(network.logits(requests, ads), expected, rtol=0, atol=1e-5)
    model = restore(network.files())
    np.testing.assert_allclose(model.logits(requests, ads), expected, rtol=0, atol=1e-5)
    prepared = model.prepare(ads)
    one_by_one = [prepared.logits(requests[n], np.array([n]))[0].copy() for n in range(40)]
    np.testing.assert_allclose(one_by_one, expected[:40], rtol=0, atol=1e-5)


def test_lower_precision_is_accurate_enough(network: Network, rows: Rows) -> None:
    requests, ads = rows.requests[:2_000], rows.ads[:2_000]
    exact = network.logits(requests, ads)[:, 0]
    sample = network.inputs(rows.requests[2_000:4_000], rows.ads[2_000:4_000])

    def lower(**form: Any) -> NDArray[np.float64]:
        files = {**network.files(), GRAPH: to_onnx(network.weights, **form)}
        return restore(files).logits(requests, ads)[:, 0]

    half = lower(precision="fp16")
    assert np.abs(sigmoid(half) - sigmoid(exact)).max() < 1e-3
    bytes_ = lower(precision="int8", sample=sample)
    labels = rows.labels[:2_000]
    assert log_loss(sigmoid(bytes_), labels) < 1.005 * log_loss(sigmoid(exact), labels)


def test_the_same_seed_gives_the_same_network(rows: Rows, network: Network) -> None:
    again = fit(rows, SPEC, SMALL)
    assert again.files() == network.files()
    other = fit(rows, SPEC, msgspec.structs.replace(SMALL, seed=8, epochs_max=1))
    assert other.files()[GRAPH] != network.files()[GRAPH]


def test_weights_stand_for_rows_left_out() -> None:
    drawn = made(30_000, seed=21)
    rates = np.where(of_ad(drawn, "campaign") == 3, 0.12, 0.03)
    whole = labelled(drawn, rates, seed=22)
    kept = whole.labels | (np.random.default_rng(23).random(len(whole)) < 0.2)
    sampled = replace(whole[kept], weights=np.where(whole.labels[kept], 1.0, 5.0))
    predicted = ctr(fit(sampled, SPEC, SMALL), whole)
    third = of_ad(whole, "campaign") == 3
    assert predicted[third].mean() == pytest.approx(0.12, rel=0.2)
    assert predicted[~third].mean() == pytest.approx(0.03, rel=0.2)


def test_conversion_rates_are_of_all_impressions_not_of_the_clicked() -> None:
    drawn = made(40_000, seed=31)
    often = of_request(drawn, "hour") < 12  # clicked often, converted seldom; the others the other way round
    rows = labelled(drawn, np.where(often, 0.5, 0.05), seed=32)
    rates = np.where(often, 0.1, 0.6)
    conversions = np.random.default_rng(33).random(len(rows)) < rates
    network = fit(rows, SPEC, SMALL, conversions)
    of_clicked = conversions[rows.labels].mean()
    found = cvr(network, rows)
    assert of_clicked < 0.17  # what fitting to the clicked would say of all
    assert found.mean() == pytest.approx(rates.mean(), abs=0.05)
    assert found[often].mean() == pytest.approx(0.1, abs=0.03)
    joint = ctr(network, rows) * found
    assert joint.sum() == pytest.approx((rows.labels & conversions).sum(), rel=0.15)


def test_what_is_new_is_predicted_as_what_is_rare() -> None:
    rng = np.random.default_rng(41)
    rare = rng.random(20_000) < 0.3
    creatives = np.where(rare, rng.integers(1_000, 10**9, 20_000), rng.integers(1, 20, 20_000))
    drawn = made(20_000, seed=42, columns={"creative": creatives})
    network = fit(labelled(drawn, np.where(rare, 0.4, 0.1), seed=43), SPEC, SMALL)
    later = made(2_000, seed=44, columns={"creative": rng.integers(10**10, 10**11, 2_000)})
    assert ctr(network, later).mean() == pytest.approx(0.4, abs=0.06)


def test_attention_finds_a_campaign_seen_lately() -> None:
    """The rate falls for what was seen within the hour, which matches, blind to age, cannot tell."""
    drawn = made(30_000, seed=51)

    def rates(rows: Rows) -> NDArray[np.float64]:
        recent = (of_request(rows, "seen_1") == of_ad(rows, "campaign")) & (of_request(rows, "age_1") < 3_600)
        return np.where(recent, 0.9, 0.2)

    columns = {"age_1": np.where(np.arange(30_000) % 2, 600, 500_000), "seen_2": np.zeros(30_000, dtype=np.int64)}
    drawn = made(30_000, seed=51, columns=columns)
    network = fit(labelled(drawn, rates(drawn), seed=52), SPEC, SMALL)
    predicted, true = ctr(network, drawn), rates(drawn)
    seen = of_request(drawn, "seen_1") == of_ad(drawn, "campaign")
    recent = of_request(drawn, "age_1") < 3_600
    assert predicted[seen & recent].mean() > predicted[seen & ~recent].mean() + 0.3
    assert predicted[~seen].mean() == pytest.approx(true[~seen].mean(), abs=0.05)


def test_training_ends_by_the_last_rows_in_time() -> None:
    """Early rows follow one rule, the last ones its opposite: the longer the training, the worse it does there."""
    drawn = made(6_000, seed=61)
    high = of_ad(drawn, "campaign") < 4
    rates = np.where(np.arange(6_000) < 5_400, np.where(high, 0.6, 0.1), np.where(high, 0.1, 0.6))
    rows = labelled(drawn, rates, seed=62)
    constant = labelled(drawn, np.where(high, 0.6, 0.1), seed=62)
    assert fit(rows, SPEC, SMALL).steps < fit(constant, SPEC, SMALL).steps


def test_rows_of_one_instant_cannot_be_parted() -> None:
    rows = replace(made(100, seed=1), at_ms=np.zeros(100, dtype=np.int64))
    with pytest.raises(ValueError, match="held back"):
        fit(rows, SPEC, SMALL)


def test_a_bundle_lacking_a_file_or_of_another_network_is_refused(network: Network, rows: Rows) -> None:
    files = network.files()
    assert restore(files).session.metadata["feature_spec"] == SPEC.content_hash
    with pytest.raises(KeyError):
        restore({name: data for name, data in files.items() if name != ARRAYS})
    spec = FeatureSpec(request_columns=REQUEST_COLUMNS, ad_columns=AD_COLUMNS, groups=SPEC.groups, hierarchy=())
    other = fit(rows, spec, msgspec.structs.replace(SMALL, hidden=(16,), epochs_max=1)).files()
    with pytest.raises(ValueError, match=r"form|fit|takes|outside"):
        restore({**files, LAYOUT: other[LAYOUT]})
    with pytest.raises(ValueError, match="takes"):
        restore({**files, GRAPH: other[GRAPH]})
