"""The one interface the auction knows of a model: a predictor, and the scorer it makes for a snapshot's ads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: Golden rows are reproduced this closely, absolutely, on every machine.
GOLDEN_TOLERANCE = 1e-5
#: Gives one probability, float64 (K,), of an impression's feature row (R,) for K rows of a table of ads.
Score = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
#: An impression's feature row (R,) and its candidates' rows (K,) in a table of ads.
Asked = tuple[NDArray[np.int64], NDArray[np.int64]]


class Predictions(NamedTuple):
    """Probabilities for K candidates: click given an impression, conversion given a click. float64, shape (K,)."""

    pctr: NDArray[np.float64]
    pcvr: NDArray[np.float64]


class RateTable:
    """A score that depends on the ad alone: one probability a row of the table of ads, float64 (C,)."""

    def __init__(self, rates: NDArray[np.float64]) -> None:
        self._rates = rates

    def __call__(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the probabilities of the rows chosen."""
        return self._rates.take(chosen)


@runtime_checkable
class Follower(Protocol):
    """What gets quicker by what it has been asked, and can work that out before it is asked the first time."""

    def follow(self, before: Any) -> Iterator[None]:
        """Work out what `before` was asked last, in steps of less than a millisecond; nothing if it is of another kind.

        `before` may be asked by another thread meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the candidates of one impression, out of a fixed table of ads: what depends on ads alone is done before.

    Never raises for any feature values; takes well under a millisecond.
    """

    version: str
    pctr: Score
    pcvr: Score
    device: str = "cpu"  # where the model runs

    def predict(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Predictions:
        """Score K candidates.

        Args:
            request: the impression's feature row, shape (R,), columns as models.features.columns.REQUEST_COLUMNS.
            chosen: the candidates' rows in the table that the scorer was prepared for, shape (K,).

        Both may be kept: never write to them afterwards.
        """
        return Predictions(self.pctr(request, chosen), self.pcvr(request, chosen))

    def predict_all(self, asked: Sequence[Asked]) -> list[Predictions]:
        """Score the candidates of several impressions, each as `predict` does but for rounding."""
        return [self.predict(request, chosen) for request, chosen in asked]

    def follow(self, before: "Scorer") -> Iterator[None]:
        """Work out what the scorer before was asked last, as Follower.follow does, before this one is asked."""
        yield from _follow(self.pctr, before.pctr)
        yield from _follow(self.pcvr, before.pcvr)


def _follow(score: object, before: object) -> Iterator[None]:
    if isinstance(score, Follower):
        yield from score.follow(before)


@runtime_checkable
class Batched(Protocol):
    """What is asked in two steps, the second for several impressions at once: a score, or a model of one."""

    def stage(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Any:
        """Return what `run` needs of an impression and its candidates, in the thread of the auctions."""
        ...

    def run(self, staged: Sequence[Any]) -> Sequence[NDArray[Any]]:
        """Return the probabilities, or log-odds, of each, in any thread, one call at a time."""
        ...


@dataclass(frozen=True, slots=True)
class BatchScorer(Scorer):
    """A scorer that can also score several impressions at once; a score that cannot is made while staging."""

    def stage(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Any:
        """Return what `run` needs of an impression, arguments as of `predict`, in the thread of the auctions."""
        return _stage(self.pctr, request, chosen), _stage(self.pcvr, request, chosen)

    def run(self, staged: Sequence[Any]) -> list[Predictions]:
        """Return the predictions of each, in any thread, one call at a time."""
        pctr, pcvr = zip(*staged, strict=True)
        return [Predictions(*found) for found in zip(_run(self.pctr, pctr), _run(self.pcvr, pcvr), strict=True)]


def _stage(score: Score, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> Any:
    return score.stage(request, chosen) if isinstance(score, Batched) else score(request, chosen)


def _run(score: Score, staged: Sequence[Any]) -> Sequence[NDArray[np.float64]]:
    return score.run(staged) if isinstance(score, Batched) else staged


class Predictor(Protocol):
    """Predicts click and conversion rates; knows no ads until it is prepared for some."""

    version: str

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A), columns as models.features.columns.AD_COLUMNS."""
        ...


class BatchPredictor(Predictor, Protocol):
    """A predictor that also scores rows of different impressions, for training and evaluation."""

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        """Score n rows, requests of shape (n, R) and ads of shape (n, A)."""
        ...


def predict(predictor: Predictor, request: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
    """Score one impression (R,) for each of K ads (K, A) just as serving does, without a table made before."""
    return predictor.prepare(ads).predict(request, np.arange(len(ads), dtype=np.int64))
