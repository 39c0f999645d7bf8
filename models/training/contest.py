"""The night's contest: the candidate, the champion, and the challenger that was scored in shadow, on later traffic."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.clock import MS_PER_DAY
from models.evaluation import compare, gates
from models.evaluation.metrics import measure
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving import bundle
from models.serving.prior import ConstantPredictor
from models.training import aliases
from models.training.config import TrainingConfig
from models.training.dataset import Dataset
from models.training.ensemble import Walk
from models.training.rows import Rows

_CAMPAIGN = AD_COLUMNS.index("campaign_id")
_EXCHANGE = REQUEST_COLUMNS.index("exchange")


class Live(msgspec.Struct, frozen=True):
    """What the challenger predicted in shadow, against what was bid with."""

    version: str
    difference: gates.Difference
    objections: list[str]


class Findings(msgspec.Struct, frozen=True):
    """What is known when it is decided. `champion` is the version it was compared with; None: there is none, or `fault`
    says why it cannot be read.
    """

    champion: str | None
    scores: dict[str, dict[str, Any]]
    difference: gates.Difference
    slices: list[gates.Slice]
    objections: list[str]
    live: Live | None = None
    fault: str | None = None


class Decision(NamedTuple):
    """What becomes of the candidate, and of the challenger in shadow (`promote`, `drop` or `keep`), and why."""

    candidate: gates.Result
    challenger: str
    reasons: tuple[str, ...]


def champion(root: Path) -> bundle.Bundle | None:
    """Return what serves; None where nothing does, or it cannot be read: then the bidder cannot serve it either."""
    return aliases.loaded(root, bundle.CHAMPION)


def hold(root: Path, data: Dataset, walked: Walk, config: TrainingConfig) -> Findings:
    """Measure the candidate beside the prior on all walked rows, and beside what serves on those new to both."""
    bounds, serving = config.limits(), champion(root)
    later = data.impressions[slice(walked.start, None)]
    scores = {
        "candidate": measure(walked.chosen, later.labels, later.weights),
        "prior": measure(walked.prior, later.labels, later.weights),
        "constant": compare.measure_rows(ConstantPredictor(), later),
    }
    new = later.at_ms >= (compare.trained_to_ms(serving) if serving is not None else 0)
    both = later[new]
    live = data.shadowed.champion[walked.start :]
    predicted = compare.pctr(serving.predictor, both) if serving is not None else bid_with(live, both)
    pair = gates.Pair(walked.chosen[new], predicted, both.labels, both.weights)
    if serving is None:
        scores["live"] = measure(pair.baseline, pair.labels, pair.weights)
    else:
        scores["champion"] = measure(pair.baseline, pair.labels, pair.weights)
        scores["candidate beside champion"] = measure(pair.candidate, pair.labels, pair.weights)
    return Findings(
        champion=serving.version if serving is not None else None,
        scores={name: score.as_json() for name, score in scores.items()},
        difference=gates.difference(pair, bounds),
        slices=[
            *gates.slices("exchange", both.requests[:, _EXCHANGE], pair, bounds),
            *gates.slices("campaign", both.ads[:, _CAMPAIGN], pair, bounds),
        ],
        objections=gates.uncalibrated(scores["candidate"], bounds)
        + gates.worse_than_prior(scores["candidate"], scores["prior"], bounds),
        live=_live(root, data, serving, bounds),
        fault=aliases.fault(root, bundle.CHAMPION) if serving is None else None,
    )


def bid_with(live: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Return the click rates that rows were bid with, (n,), as the prior had them then; constants where none is known.

    Without a champion that is what a first model replaces.
    """
    return np.where(np.isfinite(live) & (live > 0.0), live, compare.pctr(ConstantPredictor(), rows))


def _live(root: Path, data: Dataset, serving: bundle.Bundle | None, bounds: gates.Limits) -> Live | None:
    """Compare what the challenger predicted with what serves, where both were asked: bids of an earlier champion, and
    those that the prior answered for want of time, tell nothing of the two.
    """
    challenger = aliases.loaded(root, bundle.CHALLENGER)
    if challenger is None:
        return None
    version, shadowed = challenger.version, data.shadowed
    asked = (shadowed.challengers == version) & np.isfinite(shadowed.champion) & np.isfinite(shadowed.challenger)
    if serving is not None:
        asked &= shadowed.champions == serving.version
    rows = data.impressions[asked]
    pair = gates.Pair(shadowed.challenger[asked], shadowed.champion[asked], rows.labels, rows.weights)
    score = measure(pair.candidate, pair.labels, pair.weights)
    return Live(version, gates.difference(pair, bounds), gates.uncalibrated(score, bounds))


def decide(found: Findings, now_ms: int, config: TrainingConfig) -> Decision:
    """Weigh what was found. A proven candidate serves; else a challenger that has proven itself live; a candidate that
    is promising takes the place in shadow where that is free, or has been taken for long enough.
    """
    bounds = config.limits()
    name = "the champion" if found.champion is not None else "what was bid with"
    tonight = gates.judge(name, found.difference, found.slices, found.objections, bounds)
    live = found.live
    if tonight.result == "promote" or live is None:
        return Decision(tonight.result, "drop" if live else "keep", tonight.reasons)
    there = gates.judge(name, live.difference, (), live.objections, bounds)
    if there.result == "promote":
        reason = f"the challenger {live.version} has proven itself in shadow"
        return Decision("refuse", "promote", (*tonight.reasons, reason))
    enough = live.difference.rows >= bounds.rows_min and live.difference.clicks >= bounds.clicks_min
    days = (now_ms - registry.built_at_ms(live.version)) / MS_PER_DAY
    if (enough and live.difference.high < 0) or days > config.challenger_days_max:
        return Decision(tonight.result, "drop", tonight.reasons)
    if tonight.result == "shadow":
        reason = f"the challenger {live.version} is still being compared in shadow"
        return Decision("refuse", "keep", (*tonight.reasons, reason))
    return Decision(tonight.result, "keep", tonight.reasons)
