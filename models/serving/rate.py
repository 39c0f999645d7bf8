"""One probability: the weighted sum of what models say in log-odds, calibrated; and the predictor made of two of them.

A model says its log-odds of rows of any kind, or is prepared for a table of ads and asked one request at a time:
models.serving.onnx (trees), models.serving.network, models.serving.linear. One model alone is a sum of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.serving.calibration import HierarchicalCalibration, PairedCalibration, PreparedCalibration
from models.serving.keys import Shared
from models.serving.network import PreparedHead, PreparedNetwork
from models.serving.predictor import Asked, Batched, BatchScorer, Follower, Predictions, Scorer
from models.serving.session import Provider
from models.serving.statistics import Statistics

Int64s = NDArray[np.int64]


class Prepared(Protocol):
    """A model for ads of a fixed table. One thread at a time."""

    def logits(self, request: Int64s, chosen: Int64s) -> NDArray[Any]:
        """Return log-odds (K,) of a request row (R,) and K rows of the table, K at least 1.

        The next call may overwrite them.
        """
        ...


class Model(Protocol):
    """What says log-odds, before calibration."""

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return log-odds, float64 (n,), of request rows (n or 1, R) and ad rows (n, A)."""
        ...

    def prepare(self, ads: Int64s, shared: Shared) -> Prepared:
        """Return what gives the log-odds of ads of this table, (C, A).

        `shared` is given to all models that are asked about the same impressions in turn.
        """
        ...


class Part(NamedTuple):
    """A model, how much what it says weighs, and where it runs."""

    model: Model
    weight: float = 1.0
    provider: Provider = "cpu"


class Rate:
    """A probability of rows of any kind, or prepared for a table of ads; of one part or more."""

    def __init__(self, parts: Sequence[Part], calibration: HierarchicalCalibration) -> None:
        if not parts or not np.isfinite([part.weight for part in parts]).all():
            raise ValueError("a rate has parts, and each a weight")
        self.parts = tuple(parts)
        self.calibration = calibration
        # Arrays without dimensions: float32 log-odds times them are float64.
        self._weights = [np.array(part.weight) for part in parts]

    @property
    def provider(self) -> Provider:
        """Return where most of the work is done."""
        return "cuda" if any(part.provider == "cuda" for part in self.parts) else "cpu"

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (n,), of request rows (n or 1, R) and ad rows (n, A)."""
        return _sum(self._weights, [part.model.logits(requests, ads) for part in self.parts])

    def probabilities(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return calibrated probabilities, float64 (n,), as `logits` does."""
        return self.calibration(self.logits(requests, ads), requests, ads)

    def prepare(self, ads: Int64s, shared: Shared) -> "PreparedRate":
        """Return what gives the calibrated probabilities of ads of this table, (C, A); `shared` as Model.prepare."""
        prepared = [part.model.prepare(ads, shared) for part in self.parts]
        batched = any(isinstance(part, Batched) for part in prepared)
        kind = BatchedRate if batched else PreparedRate
        return kind(prepared, self._weights, self.calibration.prepare(ads))


def _sum(weights: Sequence[NDArray[np.float64]], logits: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the weighted sum in memory of its own; in one order, so that all ways of asking agree to the last bit."""
    total: NDArray[np.float64] = logits[0] * weights[0]
    for weight, told in zip(weights[1:], logits[1:], strict=True):
        total += told * weight
    return total


class PreparedRate:
    """A rate for ads of a fixed table. One thread at a time."""

    def __init__(
        self, parts: Sequence[Prepared], weights: Sequence[NDArray[np.float64]], calibration: PreparedCalibration
    ) -> None:
        self.parts = tuple(parts)
        self.weights = tuple(weights)
        self.calibration = calibration

    def logits(self, request: Int64s, chosen: Int64s) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (K,), of a request row (R,) and K rows of the table, K >= 1."""
        return _sum(self.weights, [part.logits(request, chosen) for part in self.parts])

    def __call__(self, request: Int64s, chosen: Int64s) -> NDArray[np.float64]:
        """Return calibrated probabilities, float64 (K,), of a request row (R,) and K rows of the table."""
        if not len(chosen):
            return np.empty(0)
        return self.calibration(self.logits(request, chosen), self.calibration.offsets(request, chosen))

    def follow(self, before: object) -> Iterator[None]:
        """Work out what the parts of another rate were asked last, part by part: see Follower."""
        if isinstance(before, PreparedRate):
            for part, other in zip(self.parts, before.parts, strict=False):
                if isinstance(part, Follower):
                    yield from part.follow(other)


class Staged(NamedTuple):
    """One impression's candidates: what each part has staged, or said already, and the calibration's offsets (K,)."""

    parts: tuple[Any, ...]
    offsets: NDArray[np.float64]


class BatchedRate(PreparedRate):
    """A prepared rate that also runs rows of several impressions at once: `stage` here, `run` in another thread.

    A part that cannot says its log-odds while staging.
    """

    def stage(self, request: Int64s, chosen: Int64s) -> Staged:
        """Return what `run` needs of a request row (R,) and K rows of the table."""
        parts = tuple(
            part.stage(request, chosen) if isinstance(part, Batched) else part.logits(request, chosen).copy()
            for part in self.parts
        )
        return Staged(parts, self.calibration.offsets(request, chosen))

    def run(self, staged: Sequence[Staged]) -> list[NDArray[np.float64]]:
        """Return calibrated probabilities, float64 (K,), of each impression that was staged."""
        said: list[Sequence[NDArray[Any]]] = []
        for number, part in enumerate(self.parts):
            waiting = [one.parts[number] for one in staged]
            said.append(part.run(waiting) if isinstance(part, Batched) else waiting)
        return [
            self.calibration(_sum(self.weights, logits), one.offsets)
            for logits, one in zip(zip(*said, strict=True), staged, strict=True)
        ]


class PairedRates:
    """Both rates of a table's ads, calibrated in one pass; the log-odds of a network's two heads are one array too."""

    def __init__(self, ctr: PreparedRate, cvr: PreparedRate) -> None:
        self._rates = ctr, cvr
        self._network = _network_of(ctr, cvr)
        # Sums are weighed while they are made, a network's log-odds where they are scaled.
        weights = (1.0, 1.0) if self._network is None else (float(ctr.weights[0]), float(cvr.weights[0]))
        self._calibration = PairedCalibration((ctr.calibration, cvr.calibration), weights)

    def __call__(self, request: Int64s, chosen: Int64s) -> Predictions:
        """Return the predictions for K rows of the table of a request row (R,), as each rate gives them."""
        if not len(chosen):
            return Predictions(np.empty(0), np.empty(0))
        if self._network is not None:
            logits: NDArray[Any] = self._network.logits(request, chosen)
        else:
            logits = np.empty((len(chosen), 2))
            for head, rate in enumerate(self._rates):
                logits[:, head] = rate.logits(request, chosen)
        found = self._calibration(logits, request, chosen)
        return Predictions(found[:, 0], found[:, 1])

    def of_all(self, asked: Sequence[Asked]) -> list[Predictions]:
        """Return the predictions of several impressions; a network runs once for all, and is calibrated once."""
        if self._network is None or len(asked) == 1 or not all(len(chosen) for _, chosen in asked):
            return [self(request, chosen) for request, chosen in asked]
        found = self._calibration.of_all(self._network.logits_of_all(asked), asked)
        ends = accumulate((len(chosen) for _, chosen in asked), initial=0)
        return [Predictions(found[start:end, 0], found[start:end, 1]) for start, end in pairwise(ends)]


def _network_of(ctr: PreparedRate, cvr: PreparedRate) -> PreparedNetwork | None:
    """Return the network whose two heads, in their order, the rates are, if so it is."""
    heads = [part for part in (*ctr.parts, *cvr.parts) if isinstance(part, PreparedHead)]
    alone = len(ctr.parts) == len(cvr.parts) == 1 and [part.head for part in heads] == [0, 1]
    return heads[0].network if alone and heads[0].network is heads[1].network else None


@dataclass(frozen=True, slots=True)
class PairedScorer(Scorer):
    """A scorer whose rates are made together."""

    both: PairedRates = field(kw_only=True)

    def predict(self, request: Int64s, chosen: Int64s) -> Predictions:
        """Score K candidates, arguments as of `Scorer.predict`."""
        return self.both(request, chosen)

    def predict_all(self, asked: Sequence[Asked]) -> list[Predictions]:
        """Score the candidates of several impressions, each as `predict` does but for rounding."""
        return self.both.of_all(asked)


class ModelPredictor:
    """Click rates from models; conversion rates from models where data sufficed for them, else smoothed rates."""

    def __init__(self, version: str, ctr: Rate, cvr: Rate | Statistics) -> None:
        self.version = version
        self.ctr = ctr
        self.cvr = cvr

    def prepare(self, ads: Int64s) -> Scorer:
        """Return a scorer for a table of ads, shape (C, A)."""
        shared = Shared()
        ctr = self.ctr.prepare(ads, shared)
        cvr = self.cvr.prepare(ads, shared) if isinstance(self.cvr, Rate) else self.cvr.prepare(ads)
        if isinstance(ctr, Batched) or isinstance(cvr, Batched):
            return BatchScorer(self.version, ctr, cvr, self.ctr.provider)
        if not isinstance(cvr, PreparedRate):
            return Scorer(self.version, ctr, cvr, self.ctr.provider)
        return PairedScorer(self.version, ctr, cvr, self.ctr.provider, both=PairedRates(ctr, cvr))

    def predict_rows(self, requests: Int64s, ads: Int64s) -> Predictions:
        """Score n rows, requests of shape (n or 1, R) and ads of shape (n, A)."""
        return Predictions(self.ctr.probabilities(requests, ads), self.cvr.probabilities(requests, ads))
