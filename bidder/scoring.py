"""The probabilities of one impression's candidates: which model is asked, and who answers when time is short."""

import asyncio
from collections.abc import Awaitable

import numpy as np
from numpy.typing import NDArray

from bidder.run import Run
from bidder.state import ServingState
from dsp.kernel import metrics
from dsp.kernel.metrics import Fallback
from models.serving.batcher import Batcher
from models.serving.predictor import BatchScorer, Predictions


def predict(
    run: Run,
    state: ServingState,
    features: NDArray[np.int64],
    chosen: NDArray[np.int64],
    batcher: Batcher | None,
    ms_min: float,
) -> Predictions | Awaitable[Predictions]:
    """Score an impression's feature row (R,) for K creatives by their rows in the snapshot, (K,).

    A model that runs for one request at a time answers at once. One that runs for several is to be awaited, until
    `ms_min` milliseconds are left; then, as when less is left from the start, the prior answers.
    """
    spare_ms = run.left_ms() - ms_min
    if spare_ms < 0.0:
        metrics.PREDICT_FALLBACKS.labels(Fallback.TIME_SHORT.value).inc()
        return _prior(run, state, features, chosen)
    scorer = state.predictor
    run.model_version = scorer.version
    if batcher is None or not isinstance(scorer, BatchScorer):
        return scorer.predict(features, chosen)
    answer = batcher.submit(scorer.run, scorer.stage(features, chosen), len(chosen), spare_ms)
    return _batched(answer, run, state, features, chosen)


async def _batched(
    answer: asyncio.Future[Predictions | None],
    run: Run,
    state: ServingState,
    features: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> Predictions:
    return await answer or _prior(run, state, features, chosen)


def _prior(run: Run, state: ServingState, features: NDArray[np.int64], chosen: NDArray[np.int64]) -> Predictions:
    run.model_version = state.prior.version
    return state.prior.predict(features, chosen)
