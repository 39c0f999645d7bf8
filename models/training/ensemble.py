"""Trains all click models on the same rows and blends them; chooses their settings on the last time block.

Trees on statistics (models.training.gbdt), hashed logistic regression (models.training.ftrl) and, where PyTorch is
installed, the network (models.training.network). A rate of forgetting is chosen where rows spread over some days.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import losses
from models.features.spec import FeatureSpec
from models.serving.statistics import sigmoid
from models.training import blend, calibrate, ftrl, gbdt
from models.training.blend import Blend, Model
from models.training.config import TrainingConfig
from models.training.rows import Rows
from models.training.weights import sampling

Floats = NDArray[np.float64]
GBDT, FTRL, NETWORK = "gbdt", "ftrl", "network"
_MS_PER_DAY = 86_400_000
#: Rows of fewer days are all alike: there is no trend to be told from the hours of the day.
_DAYS_MIN = 2.0
#: Half-lives tried, in time blocks.
_HALF_LIVES = (1.0, 2.0)
#: Weights and calibration of the blend forget so fast, in time blocks: the level is that of the latest.
_CALIBRATION_HALF_LIFE = 1.0
#: Learning rates and epochs of the regression that are tried.
_PACES = ((0.01, 2), (0.02, 2), (0.05, 2), (0.02, 5), (0.05, 5), (0.1, 10), (0.2, 20))


@dataclass(frozen=True, slots=True)
class Part:
    """One model: fitted to all rows, its log-odds for the later ones made before their outcome, its settings."""

    model: Model
    walked: Floats
    settings: dict[str, Any]
    train_seconds: float


@dataclass(frozen=True, slots=True)
class Ensemble:
    """All parts by name, each with a calibration of its own, and their blend. `absent` says what is missing and why."""

    parts: dict[str, Part]
    alone: dict[str, Blend]
    together: Blend
    absent: dict[str, str]

    def predict(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return the blend's probabilities, float64 (n,), of request rows (n, R) and ad rows (n, A)."""
        logits = {name: self.parts[name].model.logits(requests, ads) for name in self.together.weights}
        return self.together(logits, requests, ads)

    def predict_part(self, name: str, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return one part's probabilities, as `predict` does."""
        return self.alone[name]({name: self.parts[name].model.logits(requests, ads)}, requests, ads)


@dataclass(frozen=True, slots=True)
class _Later:
    """The rows that are predicted from earlier ones, the time block of each, and how long half-lives are."""

    rows: Rows
    edges: NDArray[np.intp]
    blocks: NDArray[np.int64]  # (n,)
    block_days: float  # 0: there is no trend

    @property
    def last(self) -> slice:
        """Return the last block's place among the rows."""
        return slice(int(self.edges[-2] - self.edges[2]), None)


def fit(rows: Rows, spec: FeatureSpec, base_rate: float, config: TrainingConfig) -> Ensemble:
    """Fit every model there is, and the blend.

    Raises:
        ValueError: rows do not spread over three time blocks.
    """
    later = _later(rows, config)
    parts = {GBDT: _trees(rows, spec, base_rate, config, later), FTRL: _regression(rows, spec, later)}
    absent: dict[str, str] = {}
    if find_spec("torch") is not None:
        parts[NETWORK] = _network(rows, spec, config, later)
    else:
        absent[NETWORK] = "PyTorch is not installed (extra deep)"
    half_life = _CALIBRATION_HALF_LIFE * later.block_days

    def blended(names: Sequence[str]) -> Blend:
        walked = {name: parts[name].walked for name in names}
        return blend.fit(walked, later.rows, spec, later.blocks, half_life)

    return Ensemble(parts, {name: blended([name]) for name in parts}, blended(list(parts)), absent)


def _later(rows: Rows, config: TrainingConfig) -> _Later:
    edges = gbdt.block_edges(rows.at_ms, config.blocks)
    if len(edges) < gbdt.BLOCKS_MIN + 1:
        raise ValueError("the rows do not spread over three time blocks")
    start = int(edges[2])
    blocks = np.searchsorted(edges, np.arange(start, len(rows)), side="right").astype(np.int64)
    days = (int(rows.at_ms[-1]) - int(rows.at_ms[0])) / _MS_PER_DAY
    block_days = days / (len(edges) - 1) if days >= _DAYS_MIN else 0.0
    return _Later(rows[slice(start, None)], edges, blocks, block_days)


def _loss(logits: Floats, rows: Rows) -> float:
    """Return the log loss that log-odds would have with the best scale: what a calibrated blend can make of them."""
    slope, intercept = calibrate.fit(logits, rows.labels, rows.weights)
    return float(np.average(losses(sigmoid(slope * logits + intercept), rows.labels), weights=rows.weights))


def _half_lives(later: _Later) -> tuple[float, ...]:
    return tuple(blocks * later.block_days for blocks in _HALF_LIVES) if later.block_days else (0.0,)


def _trees(rows: Rows, spec: FeatureSpec, base_rate: float, config: TrainingConfig, later: _Later) -> Part:
    began = time.perf_counter()
    found = []
    for half_life in _half_lives(later):
        one = msgspec.structs.replace(config, half_life_days=half_life)
        walked, features = gbdt.walk(rows, spec, base_rate, one)
        found.append((_loss(walked.logits[later.last], later.rows[later.last]), one, walked, features))
    _, chosen, walked, features = min(found, key=lambda tried: tried[0])
    model = gbdt.fit(rows, spec, base_rate, walked, features, chosen)
    settings = {"half_life_days": round(chosen.half_life_days, 3), "trees": walked.rounds}
    return Part(model, walked.logits, settings, time.perf_counter() - began)


def _regression(rows: Rows, spec: FeatureSpec, later: _Later) -> Part:
    began = time.perf_counter()
    before, block = rows[slice(0, int(later.edges[-2]))], later.rows[later.last]

    def best(configs: list[ftrl.FtrlConfig]) -> ftrl.FtrlConfig:
        if len(configs) == 1:
            return configs[0]
        return min(configs, key=lambda one: _loss(ftrl.fit(before, spec, one).logits(block.requests, block.ads), block))

    sampled = sampling(rows).offset != 0.0
    half_life = later.block_days  # one block, to begin with
    chosen = best([ftrl.FtrlConfig(alpha=rate, epochs=epochs, half_life_days=half_life) for rate, epochs in _PACES])
    tried = product(_half_lives(later), (True, False) if sampled else (True,))
    replace = msgspec.structs.replace
    chosen = best([replace(chosen, half_life_days=half_life, balance=balance) for half_life, balance in tried])
    walked = blend.walk(lambda known: ftrl.fit(known, spec, chosen), rows, later.edges[2:])
    model = ftrl.fit(rows, spec, chosen)
    return Part(model, walked, msgspec.to_builtins(chosen), time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class _Network:
    """The network's click log-odds, corrected for how its rows were sampled."""

    logits_of: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
    offset: float

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return log-odds of a click, float64 (n,)."""
        logits: Floats = self.logits_of(requests, ads)[:, 0] + self.offset
        return logits


def _network(rows: Rows, spec: FeatureSpec, config: TrainingConfig, later: _Later) -> Part:
    from models.training import network
    from models.training.network_layout import NetworkConfig

    began = time.perf_counter()
    settings = NetworkConfig(seed=config.seed, threads=config.threads)

    def learn(known: Rows) -> _Network:
        sampled = sampling(known)
        return _Network(network.fit(sampled.undo(known), spec, settings).model().logits, sampled.offset)

    walked = blend.walk(learn, rows, later.edges[2:])
    return Part(learn(rows), walked, msgspec.to_builtins(settings), time.perf_counter() - began)
