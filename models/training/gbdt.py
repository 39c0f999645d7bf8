"""One probability from rows: statistics, boosted trees on what they leave unexplained, calibration.

Nothing is judged on rows it was fitted to. Rows are cut into time blocks; the statistics a row is described by, the
trees and the calibration that score it, and the number of trees come from strictly earlier blocks (`walk`). What is
published is then fitted to all blocks. The same code serves click and conversion rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import losses
from models.features.spec import FeatureSpec, Group
from models.serving.calibration import HierarchicalCalibration, platt
from models.serving.statistics import Columns, Statistics, sigmoid
from models.serving.transform import Transform
from models.training import calibrate, shrinkage
from models.training.config import TrainingConfig
from models.training.rows import Rows
from models.training.weights import recent, sampling

#: Tree counts tried, as shares of `rounds_max`.
_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
#: A walk needs a block to start from, one to learn from what that predicts, and one to predict.
BLOCKS_MIN = 3
_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model: log-odds are the statistics' plus the trees', then calibrated. `strengths` as shrinkage.fit."""

    transform: Transform
    booster: lightgbm.Booster
    calibration: HierarchicalCalibration
    strengths: dict[str, float]

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (n,)."""
        features = self.transform(requests, ads)
        return linear(self.transform, features) + trees(self.booster, features)


@dataclass(frozen=True, slots=True)
class Walk:
    """What was predicted, block after block, knowing only earlier blocks; rows from `start` on.

    `logits` are uncalibrated, `predicted` and `prior` are probabilities. `rounds` is the number of trees found best.
    """

    start: int
    logits: NDArray[np.float64]
    predicted: NDArray[np.float64]
    prior: NDArray[np.float64]
    rounds: int


def arrays(found: Walk, features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return a walk and its features as arrays by name, to be kept."""
    numbers = np.array([found.start, found.rounds])
    predictions = {"logits": found.logits, "predicted": found.predicted, "prior": found.prior}
    return {**predictions, "features": features, "numbers": numbers}


def restore(kept: dict[str, NDArray[Any]]) -> tuple[Walk, NDArray[np.float32]]:
    """Return the walk and the features of `arrays`."""
    start, rounds = kept["numbers"].tolist()
    return Walk(start, kept["logits"], kept["predicted"], kept["prior"], rounds), kept["features"]


def linear(transform: Transform, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-odds of the statistics alone, from features made by the transform."""
    count = len(transform.statistics.groups)
    logits: NDArray[np.float64] = features[:, :count].sum(axis=1, dtype=np.float64) + transform.statistics.base_logit
    return logits


def trees(booster: lightgbm.Booster, features: NDArray[np.float32], rounds: int = -1) -> NDArray[np.float64]:
    """Return what the first `rounds` trees (-1: all) add to the log-odds."""
    return np.asarray(booster.predict(features, raw_score=True, num_iteration=rounds), dtype=np.float64)


def fit_statistics(
    selected: Sequence[Group], rows: Rows, spec: FeatureSpec, base_rate: float
) -> tuple[Statistics, dict[str, float]]:
    """Fit the statistics of these groups to all rows."""
    return shrinkage.fit(selected, rows, base_rate, Columns(spec.request_columns, spec.ad_columns))


def _transform(statistics: Statistics, spec: FeatureSpec) -> Transform:
    return Transform(statistics, spec.request_numbers, spec.ad_numbers, spec.matches)


def walk(rows: Rows, spec: FeatureSpec, base_rate: float, config: TrainingConfig) -> tuple[Walk, NDArray[np.float32]]:
    """Predict each block from the earlier ones; there must be three at least.

    Returns:
        the predictions for the third block on, and the out-of-time features of the second block on.
    """
    edges = block_edges(rows.at_ms, config.blocks)
    features: list[NDArray[np.float32]] = []
    offsets: list[NDArray[np.float64]] = []
    staged: list[NDArray[np.float64]] = []
    predicted: list[NDArray[np.float64]] = []
    prior: list[NDArray[np.float64]] = []
    stages = sorted({max(1, round(share * config.rounds_max)) for share in _SHARES})
    for begin, end in pairwise(edges[1:].tolist()):
        block = rows[slice(begin, end)]
        before = recent(rows[slice(0, begin)], config.half_life_days)
        transform = _transform(fit_statistics(spec.groups, before, spec, base_rate)[0], spec)
        described = transform(block.requests, block.ads)
        offset = linear(transform, described)
        if features:
            known = rows[slice(edges[1], begin)]
            booster = boost(np.concatenate(features), np.concatenate(offsets), known, config.rounds_max, config)
            by_stage = np.stack([offset + trees(booster, described, stage) for stage in stages])
            walked = recent(rows[slice(edges[2], begin)], config.half_life_days)
            stage = _best_stage(staged, walked)
            logits = np.concatenate([part[stage] for part in staged] or [[]])
            scale = calibrate.fit_hierarchy(logits, walked, spec)
            predicted.append(scale(by_stage[stage], block.requests, block.ads))
            hierarchy, _ = fit_statistics(spec.hierarchy, before, spec, base_rate)
            prior.append(hierarchy.probabilities(block.requests, block.ads))
            staged.append(by_stage)
        features.append(described)
        offsets.append(offset)
    final = _best_stage(staged, recent(rows[slice(edges[2], None)], config.half_life_days))
    logits = np.concatenate([part[final] for part in staged])
    found = Walk(int(edges[2]), logits, np.concatenate(predicted), np.concatenate(prior), stages[final])
    return found, np.concatenate(features)


def fit(
    rows: Rows, spec: FeatureSpec, base_rate: float, found: Walk, features: NDArray[np.float32], config: TrainingConfig
) -> Model:
    """Fit the model to publish: statistics of all rows, trees on out-of-time features, calibration of the walk."""
    statistics, strengths = fit_statistics(spec.groups, recent(rows, config.half_life_days), spec, base_rate)
    transform = _transform(statistics, spec)
    # The trees learn from features as the walk made them: those of the final statistics have seen the labels.
    later = rows[slice(len(rows) - len(features), None)]
    booster = boost(features, linear(transform, features), later, found.rounds, config)
    columns = Columns(spec.request_columns, spec.ad_columns)
    uncalibrated = Model(transform, booster, platt(columns=columns), strengths)
    scale = calibrate.fit_hierarchy(found.logits, rows[slice(found.start, None)], spec)
    calibrated = scale.logits(uncalibrated.logits(rows.requests, rows.ads), rows.requests, rows.ads)
    intercept = scale.intercept + calibrate.shift(calibrated, rows.labels, rows.weights, 1.0)
    return replace(uncalibrated, calibration=HierarchicalCalibration(scale.slope, intercept, scale.shifts))


def boost(
    features: NDArray[np.float32],
    offsets: NDArray[np.float64],
    rows: Rows,
    rounds: int,
    config: TrainingConfig,
) -> lightgbm.Booster:
    """Grow small trees on what the offsets (log-odds) leave unexplained. Deterministic for a given seed."""
    rows = recent(rows, config.half_life_days)
    sampled = sampling(rows)
    rows = sampled.undo(rows)
    parameters = {
        "objective": "binary",
        "boost_from_average": False,
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": max(40, len(rows) // 100),
        "lambda_l2": 20.0,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "max_bin": 63,
        "use_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": config.threads,
        "seed": config.seed,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(
        features,
        label=rows.labels.astype(np.float32),
        weight=rows.weights,
        init_score=offsets - sampled.offset,
        params=parameters,
    )
    return lightgbm.train(parameters, data, num_boost_round=rounds)


def block_edges(at_ms: NDArray[np.int64], blocks: int) -> NDArray[np.intp]:
    """Return the first row of each block and the end: about so many rows each, and whole days where three remain.

    Rows of one instant are never parted, so there may be fewer.
    """
    if not len(at_ms):
        return np.zeros(1, dtype=np.intp)
    places = np.arange(1, blocks) * len(at_ms) // blocks
    starts = np.flatnonzero(np.diff(at_ms // _MS_PER_DAY)) + 1
    if len(starts) >= BLOCKS_MIN - 1:
        nearest = starts[np.abs(starts[:, np.newaxis] - places).argmin(axis=0)]
        days: NDArray[np.intp] = np.unique(np.concatenate(([0], nearest, [len(at_ms)])))
        if len(days) > BLOCKS_MIN:  # with both ends one more than blocks
            return days
    edges = np.concatenate(([0], np.searchsorted(at_ms, at_ms[places], side="left"), [len(at_ms)]))
    return np.unique(edges)


def _best_stage(staged: list[NDArray[np.float64]], rows: Rows) -> int:
    if not staged:
        return 0
    together = np.concatenate(staged, axis=1)
    return int(np.argmin([np.average(losses(sigmoid(stage), rows.labels), weights=rows.weights) for stage in together]))
