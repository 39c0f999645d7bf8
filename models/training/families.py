"""The kinds of models: how each predicts time blocks from earlier ones, settings tried, and how it is fitted to all.

Trees on statistics (models.training.gbdt), hashed logistic regression (models.training.ftrl) and, where PyTorch is
installed, the network (models.training.network). Each says its log-odds alone; models.training.ensemble chooses.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise, product
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.serving.linear import LinearModel
from models.training import blend, ftrl, gbdt
from models.training.config import Family
from models.training.network_layout import NetworkConfig
from models.training.network_model import Network
from models.training.rows import Rows
from models.training.task import Seen, Task
from models.training.weights import sampling

Floats = NDArray[np.float64]
NONE = np.empty((0, 0), dtype=np.float32)
#: Learning rates, epochs and penalties of the regression that are tried, the most careful first. What learns fast needs
#: weights held small: a penalty keeps what few rows tell apart from what many do, stopping early keeps back both.
_PACES = (
    (0.02, 2, 1.0),
    (0.02, 5, 1.0),
    (0.05, 5, 30.0),
    (0.05, 5, 100.0),
    (0.1, 5, 100.0),
    (0.2, 10, 100.0),
    (0.5, 10, 100.0),
)


class Trial(NamedTuple):
    """Settings, and the log-odds (n,) of the rows from the third block on, each block's known from earlier ones."""

    settings: dict[str, Any]
    logits: Floats
    features: NDArray[np.float32] = NONE  # of trees: as they were made block by block, to learn from again


@dataclass(frozen=True, slots=True)
class NetworkHead:
    """One head's log-odds of a trained network."""

    network: Network
    head: int = 0

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Floats:
        """Return log-odds, float64 (n,), of request rows (n, R) and ad rows (n, A)."""
        return self.network.logits(requests, ads)[:, self.head]


Learned = gbdt.Model | LinearModel | NetworkHead


def absent(family: Family) -> str:
    """Return why a kind of model cannot be trained here; empty where it can."""
    missing = family == "network" and find_spec("torch") is None
    return "PyTorch is not installed (extra deep)" if missing else ""


def trials(family: Family, task: Task) -> list[Trial]:
    """Return what each setting of a kind of model would have said; the most careful first."""
    if family == "gbdt":
        return _trees(task)
    return [_tried(family, settings, task) for settings in _settings(family, task)]


def cross(
    family: Family, settings: dict[str, Any], features: NDArray[np.float32], task: Task, edges: NDArray[np.intp]
) -> Trial:
    """Return what is said of the rows between the edges, each block's by what is learned from all other rows.

    `features` are of trees' trial; without any, theirs are made crosswise as well, where the edges are all rows'.
    """
    if family == "gbdt" and not len(features):
        return Trial(settings, *gbdt.cross(task, edges, settings["trees"]))
    said = []
    for begin, end in pairwise(edges.tolist()):
        block = task.rows[slice(begin, end)]
        others, apart = _without(block, task), task.rows.apart(block)
        described = features[apart[len(apart) - len(features) :]]
        said.append(learn(family, settings, described, others.rows, others).logits(block.requests, block.ads))
    return Trial(settings, np.concatenate(said))


def learn(family: Family, settings: dict[str, Any], features: NDArray[np.float32], rows: Rows, task: Task) -> Learned:
    """Fit a kind of model to rows, the task's or the first of them; `features` are of trees' trial."""
    if family == "gbdt":
        return gbdt.fit(rows, task, settings["half_life_days"], settings["trees"], features)
    if family == "ftrl":
        return ftrl.fit(rows, task.spec, msgspec.convert(settings, ftrl.FtrlConfig)).model()
    return _network(rows, msgspec.convert(settings, NetworkConfig), task)


def _network(rows: Rows, config: NetworkConfig, task: Task) -> NetworkHead:
    from models.training import network

    if task.seen is None:
        sampled = sampling(rows)
        return NetworkHead(network.fit(sampled.undo(rows), task.spec, config).shifted(sampled.offset))
    known = task.seen.impressions.at_ms <= rows.at_ms[-1]
    impressions = task.seen.impressions[known]
    found = network.fit(sampling(impressions).undo(impressions), task.spec, config, task.seen.converted[known])
    return NetworkHead(found, head=1)  # of clicks given: how often impressions were sampled does not matter


def _settings(family: Family, task: Task) -> list[dict[str, Any]]:
    if family == "network":
        return [msgspec.to_builtins(NetworkConfig(seed=task.config.seed, threads=task.config.threads))]
    return [
        msgspec.to_builtins(ftrl.FtrlConfig(alpha=alpha, epochs=epochs, l2=l2, half_life_days=half_life))
        for half_life, (alpha, epochs, l2) in product(task.half_lives, _PACES)
    ]


def _tried(family: Family, settings: dict[str, Any], task: Task) -> Trial:
    said = blend.walk(lambda known: learn(family, settings, NONE, known, task), task.rows, task.edges[2:])
    return Trial(settings, said)


def _without(block: Rows, task: Task) -> Task:
    seen = task.seen
    if seen is not None:
        known = seen.impressions.apart(block)
        seen = Seen(seen.impressions[known], seen.converted[known])
    return replace(task, rows=task.rows[task.rows.apart(block)], seen=seen)


def _trees(task: Task) -> list[Trial]:
    found = []
    for half_life in task.half_lives:
        walked = gbdt.walk(task, half_life)
        found += [
            Trial({"half_life_days": half_life, "trees": stage}, logits, walked.features)
            for stage, logits in zip(walked.stages, walked.logits, strict=True)
        ]
    return found
