"""Hashed logistic regression, learned by FTRL-proximal: always available, cheap to update as events come.

What is a coordinate says models.serving.linear. A batch's gradients are summed by coordinate, and each coordinate has
its own rate of learning. Source: McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013,
algorithm 1, without L1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.serving.linear import Coordinates, LinearModel
from models.serving.statistics import sigmoid
from models.training.rows import Rows
from models.training.weights import Sampling, recent, sampling

_RATE_MIN = 1e-6
_ALIKE = Sampling()


class FtrlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast and how carefully is learned."""

    bits: int = 20  # of the table: 2**bits coordinates
    alpha: float = 0.1  # the rate of learning
    beta: float = 1.0  # how much gradient a coordinate needs before its rate falls
    l2: float = 1.0  # keeps all weights small
    epochs: int = 3
    batch: int = 64  # rows whose gradients are summed
    #: Rows count half as much when they are so much older than the latest; 0: all alike.
    half_life_days: float = 0.0


class Lessons(NamedTuple):
    """What n rows, requests (n, R) and ads (n, A), are to teach: how many responses of how much of an impression.

    A row weighs `shares` and responded `responses` times, float64 (n,). A response that comes after its impression was
    learned is one of share 0. `offsets` are log-odds that are known beforehand.
    """

    requests: NDArray[np.int64]
    ads: NDArray[np.int64]
    shares: NDArray[np.float64]
    responses: NDArray[np.float64]
    offsets: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.shares)

    def part(self, begin: int, end: int) -> "Lessons":
        """Return those of [begin, end)."""
        cut = slice(begin, end)
        return Lessons(self.requests[cut], self.ads[cut], self.shares[cut], self.responses[cut], self.offsets[cut])


class _Batch(NamedTuple):
    """Some lessons' coordinates: their places, and for every filled slot the row and which of the places it is."""

    places: NDArray[np.intp]
    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    lessons: Lessons


@dataclass(slots=True)
class Ftrl:
    """The state of learning: `sums` (z) and `squares` (n) by coordinate, float64 (2**bits,); `base` are log-odds.

    It is of rows whose sampling was undone.
    """

    spec: FeatureSpec
    config: FtrlConfig
    base: float
    sampled: Sampling
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    def logits(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log-odds, float64 (n,), of request rows (n, R) and ad rows (n, A)."""
        return self.model().logits(requests, ads)

    def model(self) -> LinearModel:
        """Return what has been learned, ready to serve."""
        weights = self._weights(self.sums, self.squares).astype(np.float32)
        return LinearModel(Coordinates(self.spec, self.config.bits), weights, self.base + self.sampled.offset)

    def update(self, rows: Rows) -> None:
        """Learn from rows, once, in their order."""
        self.learn(_lessons(self.sampled.undo(rows)))

    def learn(self, lessons: Lessons) -> NDArray[np.float64]:
        """Learn from lessons, once, in their order; return what was predicted of each batch before, float64 (n,)."""
        predicted = [self._learn(batch) for batch in _batches(self.spec, self.config, lessons)]
        return np.concatenate([np.empty(0), *predicted])

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return all that `restore` needs beside spec and config."""
        scalars = np.array([self.base, *self.sampled])
        return {"scalars": scalars, "sums": self.sums, "squares": self.squares}

    def _learn(self, batch: _Batch) -> NDArray[np.float64]:
        sums, squares = self.sums[batch.places], self.squares[batch.places]
        weights, lessons = self._weights(sums, squares), batch.lessons
        told = np.bincount(batch.rows, weights=weights[batch.codes], minlength=len(lessons))
        predicted = sigmoid(self.base + lessons.offsets + told.astype(np.float64))
        errors = lessons.shares * predicted - lessons.responses
        gradients = np.bincount(batch.codes, weights=errors[batch.rows], minlength=len(batch.places)).astype(np.float64)
        grown = squares + gradients**2
        rates = (np.sqrt(grown) - np.sqrt(squares)) / self.config.alpha
        self.sums[batch.places] = sums + gradients - rates * weights
        self.squares[batch.places] = grown
        return predicted

    def _weights(self, sums: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
        config = self.config
        weights: NDArray[np.float64] = -sums / ((config.beta + np.sqrt(squares)) / config.alpha + config.l2)
        return weights


def begin(spec: FeatureSpec, config: FtrlConfig, base: float = 0.0, sampled: Sampling = _ALIKE) -> Ftrl:
    """Return a model that has learned nothing: its log-odds are `base`."""
    size = 1 << config.bits
    return Ftrl(spec, config, base, sampled, np.zeros(size), np.zeros(size))


def fit(rows: Rows, spec: FeatureSpec, config: FtrlConfig) -> Ftrl:
    """Learn from rows in order of time, `epochs` times over."""
    rows = recent(rows, config.half_life_days)
    sampled = sampling(rows)
    rows = sampled.undo(rows)
    rate = float(np.average(rows.labels, weights=rows.weights)) if len(rows) else 0.5
    rate = min(max(rate, _RATE_MIN), 1.0 - _RATE_MIN)
    model = begin(spec, config, float(np.log(rate / (1.0 - rate))), sampled)
    batches = list(_batches(spec, config, _lessons(rows)))
    for _ in range(config.epochs):
        for batch in batches:
            model._learn(batch)
    return model


def restore(spec: FeatureSpec, config: FtrlConfig, arrays: Mapping[str, NDArray[np.float64]]) -> Ftrl:
    """Return the model whose arrays these are; it learns on where it was.

    Raises:
        ValueError: they are of another size, or not finite.
    """
    scalars, sums, squares = (np.asarray(arrays[name], dtype=np.float64) for name in ("scalars", "sums", "squares"))
    if scalars.shape != (3,) or sums.shape != (1 << config.bits,) or squares.shape != sums.shape:
        raise ValueError(f"not the arrays of a table of {config.bits} bits")
    base, negative, positive = scalars.tolist()
    finite = all(np.isfinite(array).all() for array in (scalars, sums, squares))
    if not finite or (squares < 0.0).any() or min(negative, positive) <= 0.0:
        raise ValueError("arrays hold what no learning leaves")
    return Ftrl(spec, config, base, Sampling(negative, positive), sums.copy(), squares.copy())


def _lessons(rows: Rows) -> Lessons:
    return Lessons(rows.requests, rows.ads, rows.weights, rows.weights * rows.labels, np.zeros(len(rows)))


def _batches(spec: FeatureSpec, config: FtrlConfig, lessons: Lessons) -> Iterator[_Batch]:
    coordinates = Coordinates(spec, config.bits)
    for begin in range(0, len(lessons), config.batch):
        part = lessons.part(begin, begin + config.batch)
        places, filled = coordinates(part.requests, part.ads)
        unique, codes = np.unique(places[filled], return_inverse=True)
        yield _Batch(unique, np.nonzero(filled)[1], codes, part)
