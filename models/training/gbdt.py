"""Log-odds from rows: statistics, and boosted trees on what they leave unexplained.

Nothing is judged on rows it was fitted to. Rows are cut into time blocks; the statistics a row is described by and the
trees that score it come from strictly earlier blocks (`walk`). What is published is then fitted to all blocks; where
these are hours of a day or two, from features that come from all other blocks (`cross`). The same code serves click and
conversion rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.clock import MS_PER_DAY
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import Columns, Statistics
from models.serving.transform import Transform
from models.training import shrinkage
from models.training.config import TrainingConfig
from models.training.rows import Rows
from models.training.task import Task
from models.training.weights import recent, sampling

#: Tree counts tried, as shares of `rounds_max`.
_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
#: A walk needs a block to start from, one to learn from what that predicts, and one to predict.
BLOCKS_MIN = 3


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model: log-odds are the statistics' plus the trees'. `strengths` as shrinkage.fit."""

    transform: Transform
    booster: lightgbm.Booster
    strengths: dict[str, float]

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (n,)."""
        features = self.transform(requests, ads)
        return linear(self.transform, features) + trees(self.booster, features)


class Walk(NamedTuple):
    """What was said of the rows from the third block on, n of them, block after block, knowing only earlier blocks.

    `stages` are numbers of trees, `logits` (S, n) what so many said. `features` (m, F) are of the second block on.
    """

    stages: tuple[int, ...]
    logits: NDArray[np.float64]
    features: NDArray[np.float32]


def linear(transform: Transform, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-odds of the statistics alone, from features made by the transform."""
    count = len(transform.statistics.groups)
    logits: NDArray[np.float64] = features[:, :count].sum(axis=1, dtype=np.float64) + transform.statistics.base_logit
    return logits


def trees(booster: lightgbm.Booster, features: NDArray[np.float32], rounds: int = -1) -> NDArray[np.float64]:
    """Return what the first `rounds` trees (-1: all) add to the log-odds."""
    return np.asarray(booster.predict(features, raw_score=True, num_iteration=rounds), dtype=np.float64)


def fit_statistics(
    selected: Sequence[Group], rows: Rows, spec: FeatureSpec, base_rate: float, seen: Rows | None = None
) -> tuple[Statistics, dict[str, float]]:
    """Fit the statistics of these groups to all rows. `seen`: the impressions whose clicks they are."""
    return shrinkage.fit(selected, rows, base_rate, Columns(spec.request_columns, spec.ad_columns), seen)


def _transform(rows: Rows, seen: Rows | None, task: Task) -> tuple[Transform, dict[str, float]]:
    spec = task.spec
    statistics, strengths = fit_statistics(spec.groups, rows, spec, task.base_rate, seen)
    return Transform(statistics, spec.request_numbers, spec.ad_numbers, spec.matches), strengths


def walk(task: Task, half_life_days: float) -> Walk:
    """Predict each block from the earlier ones; the task has three blocks at least, as `block_edges` cuts them."""
    rows, config, begins = task.rows, task.config, task.edges[1:].tolist()
    features: list[NDArray[np.float32]] = []
    offsets: list[NDArray[np.float64]] = []
    logits: list[NDArray[np.float64]] = []
    stages = sorted({max(1, round(share * config.rounds_max)) for share in _SHARES})
    for begin, end in pairwise(begins):
        block = rows[slice(begin, end)]
        before = recent(rows[slice(0, begin)], half_life_days)
        transform, _ = _transform(before, _seen_before(before, task, half_life_days), task)
        described = transform(block.requests, block.ads)
        offset = linear(transform, described)
        if features:
            later = recent(rows[slice(begins[0], begin)], half_life_days)
            booster = boost(np.concatenate(features), np.concatenate(offsets), later, config.rounds_max, config)
            logits.append(np.stack([offset + trees(booster, described, stage) for stage in stages]))
        features.append(described)
        offsets.append(offset)
    return Walk(tuple(stages), np.concatenate(logits, axis=1), np.concatenate(features))


def cross(task: Task, edges: NDArray[np.intp], rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the log-odds (n,) of all rows and their features (n, F), each block's by models of all others.

    `edges` are of the blocks. Rows weigh alike, however old.
    """
    rows, seen = task.rows, task.seen
    features: list[NDArray[np.float32]] = []
    offsets: list[NDArray[np.float64]] = []
    for begin, end in pairwise(edges.tolist()):
        block = rows[slice(begin, end)]
        known = None if seen is None else seen.impressions[seen.impressions.apart(block)]
        transform, _ = _transform(rows[rows.apart(block)], known, task)
        features.append(transform(block.requests, block.ads))
        offsets.append(linear(transform, features[-1]))
    described, logits = np.concatenate(features), np.concatenate(offsets)
    said = logits.copy()
    for begin, end in pairwise(edges.tolist()):
        others = rows.apart(rows[slice(begin, end)])
        booster = boost(described[others], logits[others], rows[others], rounds, task.config)
        said[begin:end] += trees(booster, described[begin:end])
    return said, described


def fit(rows: Rows, task: Task, half_life_days: float, rounds: int, features: NDArray[np.float32]) -> Model:
    """Fit what is published: statistics of all rows, and so many trees on out-of-time `features` of the latest."""
    rows = recent(rows, half_life_days)
    transform, strengths = _transform(rows, _seen_before(rows, task, half_life_days), task)
    # The trees learn from features as the walk made them: those of the final statistics have seen the labels.
    later = rows[slice(len(rows) - len(features), None)]
    return Model(transform, boost(features, linear(transform, features), later, rounds, task.config), strengths)


def _seen_before(rows: Rows, task: Task, half_life_days: float) -> Rows | None:
    """Return the impressions up to the last of these rows, where the rows are clicks."""
    if task.seen is None:
        return None
    seen = task.seen.impressions
    return recent(seen[seen.at_ms <= rows.at_ms[-1]], half_life_days)


def boost(
    features: NDArray[np.float32],
    offsets: NDArray[np.float64],
    rows: Rows,
    rounds: int,
    config: TrainingConfig,
) -> lightgbm.Booster:
    """Grow small trees on what the offsets (log-odds) leave unexplained. Deterministic for a given seed."""
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
    starts = np.flatnonzero(np.diff(at_ms // MS_PER_DAY)) + 1
    if len(starts) >= BLOCKS_MIN - 1:
        nearest = starts[np.abs(starts[:, np.newaxis] - places).argmin(axis=0)]
        days: NDArray[np.intp] = np.unique(np.concatenate(([0], nearest, [len(at_ms)])))
        if len(days) > BLOCKS_MIN:  # with both ends one more than blocks
            return days
    edges = np.concatenate(([0], np.searchsorted(at_ms, at_ms[places], side="left"), [len(at_ms)]))
    return np.unique(edges)
