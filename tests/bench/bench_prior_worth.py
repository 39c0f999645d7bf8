"""What the online prior knows after a day of the simulated market, beside constants and the true rates.

Run it by hand: python tests/bench/bench_prior_worth.py [REQUESTS]. A day of so many requests is bought on the constants
and told to the learner as the log would tell it; impressions of the next day, bought likewise, judge. `at once` is the
learner with all of a click counted as not converted at the first age. It prints one JSON document.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dsp.kernel.clock import MS_PER_DAY

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from dsp.events.schema import Event
from dsp.pacing.traffic import Curves
from loadtest.learning import log, told
from loadtest.learning.experiment import BEGIN_MS, Experiment
from loadtest.learning.play import Played, play
from loadtest.learning.policy import Modelled
from loadtest.learning.supply import Supply
from models.evaluation.metrics import measure
from models.serving.predictor import Predictions
from models.serving.prior import ConstantPredictor, OnlinePredictor
from models.training import learner
from models.training.learner import Learner
from models.training.pending import Arrivals, Target
from tests.notices import decision
from tests.online import tell

DECISIONS_LATE_MS = 250
MATURITY_MS, ROOM, RESPONSES_MIN = 60_000, 50_000, 30


class AtOnce(Arrivals):
    """Believes that all conversions come at the first age."""

    def share(self, step: int) -> float:
        return float(step == 0)


def records(of: Supply, played: Played, seed: int) -> Iterator[tuple[int, Event]]:
    """Yield the log's records of a day with their stamps."""
    for win in played.won:
        facts = told.facts_of(of, win)
        bid = log._bid(of, played.requests[win.chance], facts, win)
        yield facts.bid_at_ms + DECISIONS_LATE_MS, decision(bid)
        for notice in told.notices_of(facts, win, seed):
            yield notice.at_ms, notice


def learned(events: list[tuple[int, Event]], arrivals: Arrivals) -> Learner:
    """Return the learner at the end of the day."""
    found = learner.begin(MATURITY_MS, ROOM, RESPONSES_MIN)
    found.pending.arrivals = arrivals
    end_ms = BEGIN_MS + MS_PER_DAY
    tell(found, events, BEGIN_MS, end_ms, 60_000)
    found.advance(end_ms)
    return found


def scores(rates: Predictions, clicked: np.ndarray, converted: np.ndarray) -> dict[str, Any]:
    """Return log loss, AUC and predictions over responses of clicks, and of conversions of clicks."""
    parts = {"ctr": (rates.pctr, clicked), "cvr": (rates.pcvr[clicked], converted[clicked])}
    return {
        name: {key: measure(*part).as_json()[key] for key in ("log_loss", "auc", "pcoc")}
        for name, part in parts.items()
    }


def main(requests: int) -> dict[str, Any]:
    """Return the scores of everybody."""
    experiment = Experiment(requests, requests // 2)
    (first, second), orders = experiment._days, experiment._catalogues
    taught = play(first, orders[0], Modelled(ConstantPredictor(), first), Curves(), 1)
    judge = play(second, orders[1], Modelled(ConstantPredictor(), second), Curves(), 2, taught.told)
    events = sorted(records(first, taught, 1), key=lambda one: one[0])
    later = np.array([one.candidate for one in judge.won])
    rows = judge.requests[second.owners[later]], second.ads[second.creatives[later]]
    clicked, converted = (np.array([getattr(one, name) for one in judge.won]) for name in ("clicked", "converted"))
    found = {"constants": ConstantPredictor().predict_rows(*rows)}
    found["true"] = Predictions(second.truth.pctr[later], second.truth.pcvr[later])
    for name, arrivals in (("online", Arrivals()), ("at once", AtOnce())):
        models = {target: model.model() for target, model in learned(events, arrivals).models.items()}
        predictor = OnlinePredictor(name, models[Target.CLICK], models[Target.CONVERSION], ConstantPredictor())
        found[name] = predictor.predict_rows(*rows)
    counts = {"learned from": len(taught.won), "judged on": len(later), "clicks": int(clicked.sum())}
    return counts | {name: scores(rates, clicked, converted) for name, rates in found.items()}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40_000), indent=2))
