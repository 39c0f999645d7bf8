"""One day to learn from, one day to buy for on each set of predictions: what the day of learning was worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.clock import MS_PER_DAY
from dsp.kernel.money import IMPRESSIONS_PER_MILLE, MICROS_PER_UNIT
from dsp.pacing.traffic import Curves, Traffic
from dsp.pricing.value import value_micros_cpm
from dsp.snapshot.build import build
from loadtest.draw import Draw
from loadtest.learning import log
from loadtest.learning.orders import orders
from loadtest.learning.play import Played, play
from loadtest.learning.policy import Fixed, Modelled, Policy
from loadtest.learning.posterior import Posterior
from loadtest.learning.supply import Supply, supply
from loadtest.learning.told import Placed
from loadtest.learning.visible import visible
from models.serving import bundle
from models.serving.prior import ConstantPredictor
from models.training import nightly
from models.training.config import TrainingConfig

#: Midnight UTC of the day that is learned from, a Tuesday.
BEGIN_MS = 20_249 * MS_PER_DAY
_TRAFFIC_SEEDS = (1, 2)  # of the two days
#: Prices are not what is learned here: first prices stay a constant share of the worth.
_NO_LANDSCAPE = 10**9
POLICIES = ("prior", "smoothed", "learned", "oracle")
UNSELECTED, VISIBLE, WIRE, LOG = "unselected", "visible", "wire", "log"


class Bought(NamedTuple):
    """What a policy's day was worth in the terms of the line items' goals, in truth, and what it cost; units.

    `calibration` is the sum of predicted over the sum of true click rates of all candidates, of bids, and of wins.
    """

    value: float
    cost: float
    impressions: int
    calibration: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One seed: what was learned from, and what each policy bought."""

    seed: int
    impressions: int
    clicks: int
    conversions: int
    outcome: str  # of the nightly
    bought: Mapping[str, Bought]

    def recovered(self, base: str = "prior", by: str = "learned") -> float:
        """Return the share that a policy has of the gain in value from `base` to the true response model."""
        low, found, high = (self.bought[name].value for name in (base, by, "oracle"))
        return (found - low) / (high - low)


class Experiment:
    """Two days of traffic made once; each seed has its own rivals' prices and people's choices."""

    def __init__(self, learned: int, bought: int, same_people: bool = False) -> None:
        """Make the two days' traffic, of so many requests; budgets are in proportion to them.

        The second day's people are strangers, or those of the first.
        """
        days = [(BEGIN_MS, learned), (BEGIN_MS + MS_PER_DAY, bought)]
        self._catalogues = [orders(begin_ms, requests) for begin_ms, requests in days]
        streams = ((_TRAFFIC_SEEDS[0], 0), (_TRAFFIC_SEEDS[0], 2 * learned) if same_people else (_TRAFFIC_SEEDS[1], 0))
        self._days = [
            supply(seed, build(one, "s", begin_ms), begin_ms, requests, start)
            for (seed, start), one, (begin_ms, requests) in zip(streams, self._catalogues, days, strict=True)
        ]
        self._curves = _curves(self._days[0])

    def run(self, seed: int, limits: bool = False) -> Run:
        """Learn from the first day, bought on the prior, and buy the second on every policy.

        With `limits` there are more: what can be known of people by the wire, and by the log as well, and what is
        learned from as many ads shown to anybody, whoever would have won.
        """
        first, second = self._days
        prior: Policy = Modelled(ConstantPredictor(), first)
        played = play(first, self._catalogues[0], prior, Curves(), seed)
        won = played.won
        outcome, learned = _learn(first, played.requests, won, seed)
        policies: dict[str, Policy] = dict.fromkeys(POLICIES, Modelled(ConstantPredictor(), second))
        policies["oracle"] = Fixed(second.truth)
        if learned is not None:
            policies["learned"] = Modelled(learned.predictor, second)
            policies["smoothed"] = Modelled(learned.prior, second)
        if limits:
            seen = visible(second)
            policies |= {VISIBLE: Fixed(seen), WIRE: Posterior(second, seen), LOG: Posterior(second, seen, first, won)}
            _, unselected = _learn(first, played.requests, _anybody(first, len(won), seed), seed)
            if unselected is not None:
                policies[UNSELECTED] = Modelled(unselected.predictor, second)
        bought = {
            name: _bought(second, play(second, self._catalogues[1], policy, self._curves, seed, played.told))
            for name, policy in policies.items()
        }
        clicks, conversions = sum(one.clicked for one in won), sum(one.converted for one in won)
        return Run(seed, len(won), clicks, conversions, outcome, bought)


def _learn(of: Supply, requests: NDArray[np.int64], won: list[Placed], seed: int) -> tuple[str, bundle.Bundle | None]:
    """Run the nightly at the end of a day's log; None where it publishes nothing."""
    config = TrainingConfig(
        landscape_fallback_rows_min=_NO_LANDSCAPE, landscape_rows_min=_NO_LANDSCAPE, landscape_rows_max=_NO_LANDSCAPE
    )
    end_ms = BEGIN_MS + MS_PER_DAY
    with TemporaryDirectory(prefix="dsp-learning-") as directory:
        log.write(Path(directory) / "training", of, requests, won, seed, end_ms)
        outcome = nightly.run(Path(directory), end_ms, config, lambda step, found: None)
        root = Path(directory) / "models"
        version = registry.resolve(root, bundle.CHAMPION)
        found = bundle.load(root, version) if version is not None else None
    return ": ".join([outcome.result, *outcome.reasons]), found


def _anybody(of: Supply, count: int, seed: int) -> list[Placed]:
    """Return what came of showing random candidates of random impressions."""
    rng = np.random.default_rng(seed)
    shown = []
    for candidate in np.sort(rng.choice(len(of.owners), size=min(count, len(of.owners)), replace=False)).tolist():
        draw = Draw("anybody", seed, candidate)
        clicked = draw.chance(float(of.truth.pctr[candidate]))
        converted = clicked and draw.chance(float(of.truth.pcvr[candidate]))
        shown.append(Placed(int(of.owners[candidate]), candidate, 1_000, True, 1, clicked, converted))
    return shown


def _bought(of: Supply, played: Played) -> Bought:
    placed, predicted = played.placed, played.predicted
    bids = np.array([one.candidate for one in placed], dtype=np.int64)
    won = np.array([one.won for one in placed], dtype=np.bool_)
    value = float(_true_value(of)[bids[won]].sum()) / IMPRESSIONS_PER_MILLE / MICROS_PER_UNIT
    parts = {"candidates": np.arange(len(of.owners)), "bids": bids, "wins": bids[won]}
    calibration = {name: float(predicted.pctr[part].sum() / of.truth.pctr[part].sum()) for name, part in parts.items()}
    return Bought(value, sum(one.cost_micros for one in placed) / MICROS_PER_UNIT, int(won.sum()), calibration)


def _true_value(of: Supply) -> NDArray[np.float64]:
    rows = of.rows
    return value_micros_cpm(of.snapshot.goal_kind[rows], of.snapshot.target_micros[rows], *of.truth)


def _curves(of: Supply) -> Curves:
    """Return the traffic curves that the traffic worker would have learned of a day."""
    traffic = Traffic()
    traffic.know(of.snapshot.line_item_ids.tolist())
    for chance, begin, end in zip(of.chances, of.start[:-1].tolist(), of.start[1:].tolist(), strict=True):
        traffic.add(chance.at_ms, of.snapshot.line_item_ids[of.rows[begin:end]].tolist())
    return Curves(traffic)
