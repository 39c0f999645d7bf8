"""Trains the kinds of models on the same rows, blends them, and chooses: one alone, or the blend.

Whatever is compared was predicted before it happened: each time block by models, settings, weights and a calibration
that come from earlier blocks (`walk`). The first in the order of preference serves, unless a later one is better with
confidence. What is published is then fitted to all rows (`fit`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.clock import MS_PER_DAY
from models.evaluation import gates
from models.evaluation.metrics import losses
from models.features.spec import FeatureSpec
from models.serving.statistics import sigmoid
from models.training import blend, families, gbdt
from models.training.blend import Blend
from models.training.config import FAMILIES, Family, TrainingConfig
from models.training.families import Learned, Trial
from models.training.rows import Rows
from models.training.task import Seen, Task

Floats = NDArray[np.float64]
BLEND = "blend"
#: Rows of fewer days are all alike: there is no trend to be told from the hours of the day.
_DAYS_MIN = 2.0
#: Of so many days the walk predicts fewer than two, and how much days differ is not to be seen.
_CROSSED_DAYS_MAX = 3
#: Half-lives tried, in time blocks; 0: all alike.
_HALF_LIVES = (0.0, 1.0, 2.0)
#: Weights and calibration forget so fast, in time blocks: the level is that of the latest.
_CALIBRATION_HALF_LIFE = 1.0
#: Parts of the rows that what serves was not trained on, each predicted by what was learned from all before it.
_FRESH_PARTS = 3


class Compared(msgspec.Struct, frozen=True):
    """One that could serve beside the one before it that was to serve until then."""

    name: str
    beside: str
    difference: gates.Difference


class Choice(msgspec.Struct, frozen=True):
    """Which is to serve, and what was known of all: their log losses on later rows, and their settings."""

    winner: str
    log_losses: dict[str, float]
    compared: list[Compared]
    settings: dict[str, dict[str, Any]]
    absent: dict[str, str]  # why a kind of model could not be trained


@dataclass(frozen=True, slots=True)
class Walk:
    """What was said of the rows from `start` on, n of them, knowing only earlier ones; (n,) each.

    `logits` are of each kind of model with the settings it is left with; `predicted` are the probabilities of each and
    of the blend, `prior` those of statistics of the hierarchy. `features` are those of trees.
    """

    start: int
    logits: dict[str, Floats]
    predicted: dict[str, Floats]
    prior: Floats
    features: NDArray[np.float32]
    choice: Choice
    seconds: dict[str, float] = field(default_factory=dict)  # that each kind of model took; not kept

    @property
    def chosen(self) -> Floats:
        """Return the probabilities of the one that is to serve."""
        return self.predicted[self.choice.winner]

    def parts(self, name: str) -> list[str]:
        """Return the kinds of models that one is made of."""
        return [*self.logits] if name == BLEND else [name]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Models fitted to all rows, and for each that could serve how they are put together."""

    models: dict[str, Learned]
    blends: dict[str, Blend]
    seconds: dict[str, float]  # that fitting each took

    def predict(self, name: str, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return probabilities, float64 (n,), of request rows (n, R) and ad rows (n, A)."""
        blended = self.blends[name]
        return blended({each: self.models[each].logits(requests, ads) for each in blended.weights}, requests, ads)


def walk(
    rows: Rows,
    spec: FeatureSpec,
    base_rate: float,
    config: TrainingConfig,
    seen: Seen | None = None,
    since_ms: int | None = None,
) -> Walk:
    """Let every kind of model there is predict later blocks, and choose.

    Args:
        rows: in order of time.
        spec: what their columns are.
        base_rate: assumed before the first row.
        config: blocks, kinds of models and their settings.
        seen: the rows are clicks of these.
        since_ms: the end of what serves now was trained on. A block may be days long, and what serves would know days
            more than what is to replace it: from here on rows are predicted by models of all that was before.

    Raises:
        ValueError: rows do not spread over three time blocks.
    """
    task, later = _task(rows, spec, base_rate, config, seen)
    logits: dict[str, Floats] = {}
    honest: dict[str, Floats] = {}
    settings: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    absent: dict[str, str] = {}
    features = families.NONE
    edges = _edges(later, since_ms)
    for family in (name for name in FAMILIES if name in config.families):
        if reason := families.absent(family):
            absent[family] = reason
            continue
        began = time.perf_counter()
        tried = families.trials(family, task)
        best, until = _choose(tried, later)
        honest[family] = _said(family, until, task, later, edges)
        logits[family], settings[family] = best.logits, best.settings
        features = best.features if len(best.features) else features
        seconds[family] = time.perf_counter() - began
    entrants = {name: [name] for name in logits} | ({BLEND: [*logits]} if len(logits) > 1 else {})
    predicted = {
        name: _out_of_time({part: honest[part] for part in parts}, spec, later, edges)
        for name, parts in entrants.items()
    }
    prior = blend.walk(lambda known: _hierarchy(known, task), rows, later.start + edges)
    # A blend is more careful than any but the first: it holds that one, and weighs the others by what they have shown.
    first, *others = logits
    preferred = [first, BLEND, *others] if others else [first]
    winner, compared = select({name: predicted[name] for name in preferred}, later.rows, config.limits())
    scores = {name: _mean_loss(found, later.rows) for name, found in predicted.items()}
    choice = Choice(winner, scores, compared, settings, absent)
    return Walk(later.start, logits, predicted, sigmoid(prior), features, choice, seconds)


def fit(
    rows: Rows,
    spec: FeatureSpec,
    base_rate: float,
    walked: Walk,
    names: Sequence[str],
    config: TrainingConfig,
    seen: Seen | None = None,
) -> Ensemble:
    """Fit to all rows what the named ones are made of, and put them together as predictions out of time ask for.

    These are the walk's where it predicts two days or more. Of fewer it would take hours for the level, which are a
    rhythm that the next day has again, or one day that nobody had seen the like of: there each block of the last day is
    predicted from all other rows.
    """
    task, later = _task(rows, spec, base_rate, config, seen)
    settings, features, logits = walked.choice.settings, walked.features, walked.logits
    seconds = dict.fromkeys(logits, 0.0)
    if 1 <= (days := round(_days(rows))) <= _CROSSED_DAYS_MAX:
        later, logits = _last_day(task, whole=days == 1), {}
        known = families.NONE if days == 1 else features  # the walk describes no hour of a first day by its statistics
        for family in (each for each in FAMILIES if any(each in walked.parts(name) for name in names)):
            began = time.perf_counter()
            crossed = families.cross(family, settings[family], known, task, later.start + later.edges)
            logits[family], features = crossed.logits, crossed.features if len(crossed.features) else features
            seconds[family] = time.perf_counter() - began
    blends = {}
    for name in names:
        parts = {part: logits[part] for part in walked.parts(name)}
        told = later.rows, spec, later.blocks, later.half_life_days, later.earlier, later.crosswise
        blends[name] = blend.fit(parts, *told)
    models: dict[str, Learned] = {}
    for family in (each for each in FAMILIES if any(each in found.weights for found in blends.values())):
        began = time.perf_counter()
        models[family] = families.learn(family, settings[family], features, rows, task)
        seconds[family] += time.perf_counter() - began
    return Ensemble(models, blends, seconds)


def select(predicted: Mapping[str, Floats], rows: Rows, limits: gates.Limits) -> tuple[str, list[Compared]]:
    """Return which is to serve, and each comparison made: the first, unless a later one is better with confidence."""
    winner, *richer = predicted
    compared = []
    for name in richer:
        pair = gates.Pair(predicted[name], predicted[winner], rows.labels, rows.weights)
        compared.append(Compared(name, winner, gates.difference(pair, limits)))
        if compared[-1].difference.low > 0.0:
            winner = name
    return winner, compared


def arrays(walked: Walk) -> dict[str, NDArray[Any]]:
    """Return a walk as arrays by name, to be kept; its choice is JSON of its own."""
    kept: dict[str, NDArray[Any]] = {f"logits {name}": each for name, each in walked.logits.items()}
    kept |= {f"predicted {name}": each for name, each in walked.predicted.items()}
    return {**kept, "start": np.array(walked.start), "prior": walked.prior, "features": walked.features}


def restore(kept: Mapping[str, NDArray[Any]], choice: Choice) -> Walk:
    """Return the walk of `arrays`."""
    logits, predicted = (
        {name.removeprefix(f"{kind} "): each for name, each in kept.items() if name.startswith(f"{kind} ")}
        for kind in ("logits", "predicted")
    )
    return Walk(int(kept["start"]), logits, predicted, kept["prior"], kept["features"], choice)


@dataclass(frozen=True, slots=True)
class _Later:
    """The rows that are predicted from others, where their blocks end, and how fast what is known gets old."""

    start: int
    rows: Rows
    earlier: Rows  # than these
    edges: NDArray[np.intp]  # of the blocks among these rows
    half_life_days: float
    crosswise: bool = False  # each block is predicted from all other rows, not only earlier ones

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Return the number of each row's block, (n,)."""
        return np.searchsorted(self.edges, np.arange(len(self.rows)), side="right").astype(np.int64)


def _task(
    rows: Rows, spec: FeatureSpec, base_rate: float, config: TrainingConfig, seen: Seen | None
) -> tuple[Task, _Later]:
    edges = gbdt.block_edges(rows.at_ms, config.blocks)
    if len(edges) < gbdt.BLOCKS_MIN + 1:
        raise ValueError("the rows do not spread over three time blocks")
    days = _days(rows)
    block_days = days / (len(edges) - 1) if days >= _DAYS_MIN else 0.0
    half_lives = tuple(blocks * block_days for blocks in _HALF_LIVES) if block_days else (0.0,)
    start = int(edges[2])
    later, earlier = rows[slice(start, None)], rows[slice(0, start)]
    told = _Later(start, later, earlier, edges[2:] - start, _CALIBRATION_HALF_LIFE * block_days)
    return Task(rows, spec, base_rate, edges, half_lives, config, seen), told


def _last_day(task: Task, *, whole: bool) -> _Later:
    """Return the rows of the last day, or all of them, as rows to be predicted crosswise."""
    rows = task.rows
    start = 0 if whole else int(rows.at_ms.searchsorted(rows.at_ms[-1] - MS_PER_DAY, side="right"))
    last, earlier = rows[slice(start, None)], rows[slice(0, start)]
    return _Later(start, last, earlier, gbdt.block_edges(last.at_ms, task.config.blocks), 0.0, crosswise=True)


def _days(rows: Rows) -> float:
    return (int(rows.at_ms[-1]) - int(rows.at_ms[0])) / MS_PER_DAY


def _edges(later: _Later, since_ms: int | None) -> NDArray[np.intp]:
    """Return where the parts of the later rows end that are predicted alike: the blocks', and those since what serves
    was trained. Rows of one instant are never parted.
    """
    at_ms, count = later.rows.at_ms, len(later.rows)
    new = count if since_ms is None else int(at_ms.searchsorted(since_ms))
    places = new + (count - new) * np.arange(_FRESH_PARTS) // _FRESH_PARTS
    cuts = at_ms.searchsorted(at_ms[places], side="left") if new < count else places
    return np.union1d(later.edges, cuts).astype(np.intp)


def _choose(tried: Sequence[Trial], later: _Later) -> tuple[Trial, list[Trial]]:
    """Return the trial that was best, and for each block the one that was best until then.

    Where rows are of some days the latest block decides, otherwise all.
    """

    def best(known: slice) -> Trial:
        if known.stop == 0:
            return tried[0]
        return min(tried, key=lambda trial: _mean_loss(sigmoid(trial.logits[known]), later.rows[known]))

    edges = [0, *later.edges.tolist()]
    known = [slice(before if later.half_life_days else 0, begin) for before, begin in pairwise(edges)]
    *until, last = map(best, known)
    return last, until


def _said(family: Family, until: Sequence[Trial], task: Task, later: _Later, edges: NDArray[np.intp]) -> Floats:
    """Return the log-odds of the later rows, (n,), each part's by a model of all rows before it, with the settings
    that were best until its block began.
    """
    found = []
    for begin, end in pairwise(edges.tolist()):
        block = int(later.edges.searchsorted(begin, side="right")) - 1
        trial = until[block]
        if begin == later.edges[block]:
            found.append(trial.logits[begin:end])
            continue
        before, part = later.start + begin, later.rows[slice(begin, end)]
        features = trial.features[: before - int(task.edges[1])]
        learned = families.learn(family, trial.settings, features, task.rows[slice(0, before)], task)
        found.append(learned.logits(part.requests, part.ads))
    return np.concatenate(found)


def _out_of_time(parts: Mapping[str, Floats], spec: FeatureSpec, later: _Later, edges: NDArray[np.intp]) -> Floats:
    """Return probabilities (n,), each part's put together as what was before it asks for."""
    found = []
    for begin, end in pairwise(edges.tolist()):
        known = {name: logits[:begin] for name, logits in parts.items()}
        told = later.rows[slice(0, begin)], spec, later.blocks[:begin], later.half_life_days, later.earlier
        together = blend.fit(known, *told)
        block = later.rows[slice(begin, end)]
        said = {name: logits[begin:end] for name, logits in parts.items()}
        found.append(together(said, block.requests, block.ads))
    return np.concatenate(found)


def _hierarchy(rows: Rows, task: Task) -> Any:
    return gbdt.fit_statistics(task.spec.hierarchy, rows, task.spec, task.base_rate)[0]


def _mean_loss(predicted: Floats, rows: Rows) -> float:
    return float(np.average(losses(predicted, rows.labels), weights=rows.weights))
