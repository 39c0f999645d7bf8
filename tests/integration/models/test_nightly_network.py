"""The nightly run with PyTorch: the network takes part, is served where it wins, and speaks of conversions too."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsp import registry
from models.evaluation import compare
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving import bundle
from models.serving.network import NetworkHead
from models.serving.rate import ModelPredictor, Rate
from models.serving.statistics import sigmoid
from models.training import dataset, ensemble, nightly
from models.training.config import TrainingConfig
from models.training.rows import Rows
from models.training.task import Seen
from tests.integration.models.conftest import Writer

pytest.importorskip("torch", reason="PyTorch is not installed (extra deep)")

START_MS = 1_750_000_000_000
ROWS = 5_000
END_MS = START_MS + 10 * ROWS
CONFIG = TrainingConfig(
    maturity_seconds=0.0, rounds_max=40, blocks=3, landscape_fallback_rows_min=10**9, landscape_rows_min=10**9,
    landscape_rows_max=10**9,
)  # fmt: skip


def champion(data_dir: Path) -> ModelPredictor:
    version = registry.resolve(data_dir / "models", bundle.CHAMPION)
    assert version is not None
    predictor = bundle.load(data_dir / "models", version).predictor
    assert isinstance(predictor, ModelPredictor)
    return predictor


@pytest.mark.timeout(300)
def test_a_network_alone_is_trained_and_served(tmp_path: Path, write_log: Writer) -> None:
    write_log(tmp_path / "training", ROWS)
    config = msgspec.structs.replace(
        CONFIG, families=("network",), conversions_min=30, log_loss_tolerance=0.5, pcoc_min=0.5, pcoc_max=2.0
    )
    outcome = nightly.run(tmp_path, END_MS + 2_000, config, lambda step, found: None)
    assert outcome.result == "published", outcome.reasons
    predictor = champion(tmp_path)
    assert isinstance(predictor.cvr, Rate)
    for rate, head in ((predictor.ctr, 0), (predictor.cvr, 1)):
        (part,) = rate.parts
        assert isinstance(part.model, NetworkHead)
        assert part.model.head == head
    data = dataset.load(tmp_path / "training", START_MS, END_MS, END_MS + 2_000, config)
    predicted = compare.pctr(predictor, data.impressions)
    assert predicted.mean() == pytest.approx(data.impressions.labels.mean(), rel=0.15)
    assert predicted.std() > 0.2 * predicted.mean()


@pytest.mark.timeout(300)
def test_the_network_takes_part_and_what_is_served_is_chosen(tmp_path: Path, write_log: Writer) -> None:
    write_log(tmp_path / "training", ROWS)
    outcome = nightly.run(tmp_path, END_MS + 2_000, CONFIG, lambda step, found: None)
    assert outcome.manifest is not None, outcome.reasons
    choice = outcome.manifest["ctr"]["choice"]
    assert list(choice["log_losses"]) == ["gbdt", "ftrl", "network", "blend"]
    assert choice["absent"] == {}
    assert set(outcome.manifest["ctr"]["weights"]) <= {"ftrl", "gbdt", "network"}


def test_conversions_are_learned_over_all_impressions() -> None:
    """Clicks come often where conversions are rare, and the other way round; each is said where it belongs."""
    count, rng = 12_000, np.random.default_rng(3)
    requests = np.zeros((count, len(REQUEST_COLUMNS)), dtype=np.int64)
    device = REQUEST_COLUMNS.index("device")
    requests[:, device] = rng.integers(1, 3, count)
    ads = np.ones((count, len(AD_COLUMNS)), dtype=np.int64)
    often = requests[:, device] == 1
    clicked = rng.random(count) < np.where(often, 0.5, 0.1)
    converted = clicked & (rng.random(count) < np.where(often, 0.1, 0.6))
    impressions = Rows(np.arange(count) * 10, requests, ads, clicked, np.ones(count))
    clicks = impressions[clicked]
    clicks = Rows(clicks.at_ms, clicks.requests, clicks.ads, converted[clicked], clicks.weights)
    config = msgspec.structs.replace(CONFIG, families=("network",))
    seen = Seen(impressions, converted)
    walked = ensemble.walk(clicks, PLATFORM, 0.05, config, seen)
    said = sigmoid(walked.logits["network"])
    later = clicks.requests[walked.start :, device] == 1
    assert said[later].mean() == pytest.approx(0.1, abs=0.05)
    assert said[~later].mean() == pytest.approx(0.6, abs=0.15)
