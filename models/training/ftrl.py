"""Hashed logistic regression, learned by FTRL-proximal: always available, cheap to update as events come.

Every value of a group, every pair of values, and every number's magnitude is a coordinate of one table, found by its
hash. A batch's gradients are summed by coordinate, and each coordinate has its own rate of learning. Source: McMahan
et al., "Ad click prediction: a view from the trenches", KDD 2013, algorithm 1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.serving.statistics import Columns, Slots, sigmoid
from models.training.rows import Rows
from models.training.weights import Sampling, recent, sampling

UInt64s = NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_KEY_BITS = 64
_RATE_MIN = 1e-6


class FtrlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast and how carefully is learned."""

    bits: int = 20  # of the table: 2**bits coordinates
    alpha: float = 0.1  # the rate of learning
    beta: float = 1.0  # how much gradient a coordinate needs before its rate falls
    l1: float = 0.0  # keeps coordinates at zero that tell little
    l2: float = 1.0  # keeps all of them small
    epochs: int = 3
    batch: int = 256  # rows whose gradients are summed
    #: Rows count half as much when they are so much older than the latest; 0: all alike.
    half_life_days: float = 0.0
    #: Learn from sampled rows as if none had been sampled more than others, and correct what is predicted.
    balance: bool = True


class _Batch(NamedTuple):
    """Some rows' coordinates: their places, and for every filled slot the row and which of the places it is."""

    places: NDArray[np.intp]
    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    labels: NDArray[np.bool_]
    weights: NDArray[np.float64]


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
        places, filled = coordinates(self.spec, self.config.bits, requests, ads)
        weights = self._weights(self.sums, self.squares)
        logits: NDArray[np.float64] = (weights[places] * filled).sum(axis=0) + (self.base + self.sampled.offset)
        return logits

    def update(self, rows: Rows) -> None:
        """Learn from rows, once, in their order."""
        for batch in _batches(self.spec, self.config, self.sampled.undo(rows)):
            self._learn(batch)

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return all that `restore` needs beside spec and config."""
        scalars = np.array([self.base, *self.sampled])
        return {"scalars": scalars, "sums": self.sums, "squares": self.squares}

    def _learn(self, batch: _Batch) -> None:
        sums, squares = self.sums[batch.places], self.squares[batch.places]
        weights = self._weights(sums, squares)
        told = np.bincount(batch.rows, weights=weights[batch.codes], minlength=len(batch.labels))
        logits = self.base + told.astype(np.float64)
        errors = batch.weights * (sigmoid(logits) - batch.labels)
        gradients = np.bincount(batch.codes, weights=errors[batch.rows], minlength=len(batch.places)).astype(np.float64)
        grown = squares + gradients**2
        rates = (np.sqrt(grown) - np.sqrt(squares)) / self.config.alpha
        self.sums[batch.places] = sums + gradients - rates * weights
        self.squares[batch.places] = grown

    def _weights(self, sums: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
        config = self.config
        shrunk = np.sign(sums) * np.maximum(np.abs(sums) - config.l1, 0.0)
        weights: NDArray[np.float64] = -shrunk / ((config.beta + np.sqrt(squares)) / config.alpha + config.l2)
        return weights


def fit(rows: Rows, spec: FeatureSpec, config: FtrlConfig) -> Ftrl:
    """Learn from rows in order of time, `epochs` times over."""
    rows = recent(rows, config.half_life_days)
    sampled = sampling(rows) if config.balance else Sampling()
    rows = sampled.undo(rows)
    rate = float(np.average(rows.labels, weights=rows.weights)) if len(rows) else 0.5
    rate = min(max(rate, _RATE_MIN), 1.0 - _RATE_MIN)
    size = 1 << config.bits
    model = Ftrl(spec, config, float(np.log(rate / (1.0 - rate))), sampled, np.zeros(size), np.zeros(size))
    batches = list(_batches(spec, config, rows))
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


def coordinates(
    spec: FeatureSpec, bits: int, requests: NDArray[np.int64], ads: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the table's place of each slot and row, and whether it counts, both (slots, n).

    Absent members of sets do not count.
    """
    groups = sorted(spec.groups, key=lambda group: bool(group.ad))
    slots = Slots(groups, Columns(spec.request_columns, spec.ad_columns))
    keys = np.concatenate([*slots.keys(requests, ads), *_magnitudes(spec, requests, ads), _intercept(len(ads))])
    filled = np.ones(keys.shape, dtype=np.bool_)
    width = len(keys) - 1 - len(spec.request_numbers) - len(spec.ad_numbers)
    present = np.concatenate(slots.present(requests, ads))
    ends = np.append(slots.starts, width)
    for group, begin, end in zip(groups, ends[:-1], ends[1:], strict=True):
        if group.is_set:
            filled[begin:end] = present[begin:end]
    return (keys >> np.uint64(_KEY_BITS - bits)).astype(np.intp), filled


def _magnitudes(spec: FeatureSpec, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Iterator[UInt64s]:
    """Yield one row of keys a number: it is told by its sign and its doublings."""
    named = [(requests, spec.request_columns.index(name)) for name in spec.request_numbers]
    named += [(ads, spec.ad_columns.index(name)) for name in spec.ad_numbers]
    for number, (side, column) in enumerate(named, 1):
        values = side[:, column].astype(np.float64)
        levels = (np.sign(values) * np.ceil(np.log2(np.abs(values) + 1.0))).astype(np.int64)
        yield _mix((levels + (number << 16)).view(np.uint64))[np.newaxis]


def _intercept(count: int) -> UInt64s:
    return np.full((1, count), _mix(np.zeros(1, dtype=np.uint64) + np.uint64(1 << 40))[0], dtype=np.uint64)


def _mix(values: UInt64s) -> UInt64s:
    mixed = values * _ODD
    mixed ^= mixed >> np.uint64(32)
    return mixed * _ODD


def _batches(spec: FeatureSpec, config: FtrlConfig, rows: Rows) -> Iterator[_Batch]:
    for begin in range(0, len(rows), config.batch):
        part = rows[slice(begin, begin + config.batch)]
        places, filled = coordinates(spec, config.bits, part.requests, part.ads)
        unique, codes = np.unique(places[filled], return_inverse=True)
        yield _Batch(unique, np.nonzero(filled)[1], codes, part.labels, part.weights)
