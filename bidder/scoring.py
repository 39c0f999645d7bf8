"""The probabilities of an impression's candidates: which model is asked, for whom else, and who stands in."""

import numpy as np
from numpy.typing import NDArray

from bidder.revaluation import Recent, Scored
from bidder.run import Run
from bidder.state import ServingState
from dsp.kernel import metrics
from dsp.kernel.clock import NS_PER_SECOND, Clock
from dsp.kernel.metrics import Fallback, Stage
from models.serving.batcher import Batcher
from models.serving.predictor import Asked, BatchScorer, Predictions, Scorer


class Scoring:
    """Asks models on behalf of auctions.

    What runs on a device is asked through the batcher, which is None where no model does. Any other is asked for all
    auctions of a cohort in one call, by the first of them to need the answer.
    """

    def __init__(self, batcher: Batcher | None, ms_min: float, clock: Clock, recent: Recent) -> None:
        self._batcher = batcher
        self._ms_min = ms_min
        self._clock = clock
        self._recent = recent
        self._together = Together(None)

    async def predict(
        self, run: Run, state: ServingState, features: NDArray[np.int64], chosen: NDArray[np.int64]
    ) -> Predictions:
        """Score an impression's feature row (R,) for K creatives by their rows in the snapshot, (K,).

        Where less than `ms_min` milliseconds are left, or would be when a batch has run, the prior answers.
        """
        spare_ms, began_ns = run.left_ms() - self._ms_min, self._clock.elapsed_ns()
        scorer = state.predictor
        if spare_ms < 0.0:
            metrics.PREDICT_FALLBACKS.labels(Fallback.TIME_SHORT.value).inc()
            answer = None
        elif self._batcher is not None and isinstance(scorer, BatchScorer):
            answer = await self._batcher.submit(scorer.run, scorer.stage(features, chosen), len(chosen), spare_ms)
        else:
            run.model_version = scorer.version
            found = await self._ask(run, scorer, features, chosen)
            self._recent.append(Scored(state.served.ad_rows, scorer.version, (features, chosen), found))
            return found
        by = scorer if answer is not None else state.prior
        run.model_version = by.version
        found = answer or by.predict(features, chosen)
        self._recent.append(Scored(state.served.ad_rows, by.version, (features, chosen), found))
        _observe(self._clock.elapsed_ns() - began_ns, len(chosen))
        return found

    async def _ask(
        self, run: Run, scorer: Scorer, features: NDArray[np.int64], chosen: NDArray[np.int64]
    ) -> Predictions:
        if self._together.scorer is not scorer:
            self._together = Together(scorer)
        together, place = self._together, self._together.ask(features, chosen)
        await run.mark(Stage.PREDICT)  # the others ask as well
        found = together.answer(place, self._clock)
        _observe(together.spent_ns, together.rows)
        return found


class Together:
    """What the auctions of a cohort ask of a scorer, which is None once it has answered."""

    def __init__(self, scorer: Scorer | None) -> None:
        self.scorer = scorer
        self.rows = self.spent_ns = 0  # of the one call
        self._asked: list[Asked] = []
        self._answers: list[Predictions] = []

    def ask(self, features: NDArray[np.int64], chosen: NDArray[np.int64]) -> int:
        """Add an impression; return its place."""
        self._asked.append((features, chosen))
        self.rows += len(chosen)
        return len(self._asked) - 1

    def answer(self, place: int, clock: Clock) -> Predictions:
        """Return the answer for a place; from the first one on nothing more can be asked."""
        if self.scorer is not None:
            began_ns = clock.elapsed_ns()
            self._answers, self.scorer = self.scorer.predict_all(self._asked), None
            self.spent_ns = clock.elapsed_ns() - began_ns
        return self._answers[place]


def _observe(spent_ns: int, rows: int) -> None:
    """Note, of one impression, how long the call took that scored its candidates, and how many that scored."""
    metrics.PREDICT_DURATION.observe(spent_ns / NS_PER_SECOND)
    metrics.PREDICT_BATCH.observe(rows)
