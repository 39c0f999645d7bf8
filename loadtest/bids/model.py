"""A champion of the shipped shape, made without PyTorch: the network's layers are drawn instead of learned.

What a prediction costs depends on the network's shape, precision and vocabulary, not on what it has learned. The drawn
network is told apart by its name in the report, and its rates are shifted to those of real ads.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsp import registry
from dsp.catalog.entities import Catalogue
from dsp.openrtb.opportunity import Opportunity
from dsp.snapshot.build import build
from models.features.columns import REQUEST_COLUMNS
from models.features.encode import ad_rows, request_row
from models.features.platform import PLATFORM
from models.serving.bundle import CHAMPION
from models.serving.calibration import platt
from models.serving.embedding import AGE_CLASSES, Inputs, Tables
from models.serving.statistics import Statistics
from models.training.blend import Blend
from models.training.families import NetworkHead
from models.training.network_export import NetworkShape, random_weights
from models.training.network_layout import NetworkConfig, lay_out
from models.training.network_model import Network
from models.training.package import Fitted, Rate, pack
from models.training.rows import Rows

DRAWN = "network, drawn"
_ROWS = 50_000
_ADS_MAX = 20_000
#: Learned logits are a few units wide, drawn ones dozens: single precision would tell them less exactly.
_HEADS_SHARE = np.float32(0.05)
#: Added to the drawn logits, which are about 0: a click rate of about 0.4%, and one in twenty clicks converts.
_CTR_INTERCEPT, _CVR_INTERCEPT = -5.5, -3.0


def publish(root: Path, opportunities: Sequence[Opportunity], catalogue: Catalogue, seed: int = 1) -> str:
    """Make the network for these requests and ads, publish it in a registry as its champion, return its version."""
    rows = _rows(opportunities, catalogue, seed)
    network = _network(rows, seed)
    none = Statistics((), -5.0, np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.float32))
    rates = [
        Rate({"network": NetworkHead(network, head)}, Blend({"network": 1.0}, platt(1.0, intercept)))
        for head, intercept in enumerate((_CTR_INTERCEPT, _CVR_INTERCEPT))
    ]
    files = pack(Fitted(rates[0], rates[1], none, none), rows)
    version = registry.publish(root, files, {"built_at_ms": int(time.time() * 1_000), "made": DRAWN})
    registry.set_alias(root, CHAMPION, version)
    return version


def _rows(opportunities: Sequence[Opportunity], catalogue: Catalogue, seed: int) -> Rows:
    """Return impressions of these requests with ads drawn, so that the network knows the values of both."""
    random = np.random.default_rng(seed)
    ads = ad_rows(build(catalogue, "", 0))
    ads = ads[random.choice(len(ads), min(len(ads), _ADS_MAX), replace=False)]
    seen = np.array([request_row(one, None) for one in opportunities], dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS))
    requests = seen[random.integers(0, len(seen), _ROWS)]
    chosen = ads[random.integers(0, len(ads), _ROWS)]
    return Rows(np.arange(_ROWS), requests, chosen, np.zeros(_ROWS, dtype=np.bool_), np.ones(_ROWS))


def drawn_inputs(rows: Rows, seed: int) -> Inputs:
    """Return the platform's inputs of a network, laid out for rows, with vectors that have learned nothing."""
    random = np.random.default_rng(seed)
    layout, keys, places, length = lay_out(rows, PLATFORM, NetworkConfig())
    width, history = max(field.width for field in layout.request.fields + layout.ad.fields), layout.history_width
    vectors, ages = (random.normal(0, 0.3, (size, width)).astype(np.float32) for size in (length, AGE_CLASSES))
    return Inputs(layout, Tables(keys, places, vectors, ages[:, :history], np.eye(history, dtype=np.float32)))


def _network(rows: Rows, seed: int) -> Network:
    config, inputs = NetworkConfig(), drawn_inputs(rows, seed)
    shape = NetworkShape(inputs.layout.width, config.cross_layers, config.cross_rank, config.hidden)
    drawn = random_weights(shape, seed)
    weights = replace(
        drawn, cross_heads=drawn.cross_heads * _HEADS_SHARE, hidden_heads=drawn.hidden_heads * _HEADS_SHARE
    )
    return Network(inputs, weights, PLATFORM.content_hash, 0)
