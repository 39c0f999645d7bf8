"""Rows and networks for the tests of the network: nothing here needs PyTorch."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec, Group, Match
from models.serving.embedding import AGE_CLASSES, Inputs, Tables
from models.serving.network import NetworkModel, Shares
from models.serving.session import CPU, Device
from models.training.network_export import (
    NetworkShape,
    NetworkWeights,
    random_weights,
    share_weights,
    to_onnx,
)
from models.training.network_layout import NetworkConfig, lay_out
from models.training.rows import Rows

REQUEST_COLUMNS = ("site", "hour", "segment_1", "segment_2", "floor", "seen_1", "seen_2", "age_1", "age_2")
AD_COLUMNS = ("campaign", "creative", "width")
SPEC = FeatureSpec(
    request_columns=REQUEST_COLUMNS,
    ad_columns=AD_COLUMNS,
    groups=(
        Group(name="site", request=("site",)),
        Group(name="hour", request=("hour",)),
        Group(name="segment", request=("segment_1", "segment_2")),
        Group(name="site_x_campaign", request=("site",), ad=("campaign",)),
        Group(name="creative", ad=("creative",)),
    ),
    hierarchy=(Group(name="campaign", ad=("campaign",)),),
    request_numbers=("floor",),
    ad_numbers=("width",),
    matches=(Match(name="seen", request=("seen_1", "seen_2"), ad="campaign"),),
    sequence=(("seen_1", "age_1"), ("seen_2", "age_2")),
)
#: Small enough to train in a second.
SMALL = NetworkConfig(cross_layers=2, cross_rank=8, hidden=(32, 16), batch_rows=256, epochs_max=6)


def made(count: int, seed: int, columns: Mapping[str, NDArray[np.int64]] | None = None) -> Rows:
    """Return unlabelled rows with values drawn for every column, or those given."""
    rng = np.random.default_rng(seed)
    drawn = {
        "site": rng.integers(1, 40, count),
        "hour": rng.integers(0, 24, count),
        "segment_1": rng.integers(0, 5, count),
        "segment_2": rng.integers(0, 5, count),
        "floor": rng.integers(-1, 3_000_000, count),
        "seen_1": rng.integers(0, 8, count),
        "seen_2": rng.integers(0, 8, count) * rng.integers(0, 2, count),
        "age_1": rng.integers(-1, 1_000_000, count),
        "age_2": rng.integers(-1, 1_000_000, count),
        "campaign": rng.integers(1, 8, count),
        "creative": rng.integers(1, 30, count),
        "width": rng.choice([300, 728], count),
        **(columns or {}),
    }
    requests = np.stack([drawn[name] for name in REQUEST_COLUMNS], axis=1)
    ads = np.stack([drawn[name] for name in AD_COLUMNS], axis=1)
    return Rows(np.arange(count) * 10, requests, ads, np.zeros(count, dtype=np.bool_), np.ones(count))


def random_inputs(rows: Rows, config: NetworkConfig = SMALL, spec: FeatureSpec = SPEC) -> Inputs:
    """Return inputs laid out for rows, with vectors drawn."""
    rng = np.random.default_rng(5)
    layout, keys, places, length = lay_out(rows, spec, config)
    widest = max(field.width for side in (layout.request, layout.ad) for field in side.fields)
    history = layout.history_width
    vectors, ages, query = (
        rng.normal(0.0, 0.5, size).astype(np.float32)
        for size in ((length, widest), (AGE_CLASSES, history), (history, history))
    )
    vectors[0] = 0.0
    return Inputs(layout, Tables(keys, places, vectors, ages, query))


def random_model(inputs: Inputs, device: Device = CPU) -> tuple[NetworkModel, NetworkWeights]:
    """Return a model of these inputs with weights drawn, and the weights."""
    weights = random_weights(NetworkShape(inputs.layout.width, 3, 8, (32, 16)), seed=2)
    return NetworkModel(to_onnx(weights), inputs, Shares(*share_weights(weights)), device), weights
