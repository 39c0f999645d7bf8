"""Calibration along a hierarchy: Platt scaling for all, then shifts of the log-odds by exchange, campaign and the like.

Fitting it is models.training.calibrate. The ads' shifts are summed once per table of ads, the request's once per value.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.spec import Group
from models.serving.predictor import Asked
from models.serving.statistics import PLATFORM_COLUMNS, Columns, Statistics, of_negated, sigmoid

#: Combinations of the request's values that are remembered; there are as many as exchanges.
_REMEMBERED = 4_096


class CalibrationSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form. `keys` and `shifts` are the table of the groups' statistics."""

    slope: float
    intercept: float
    groups: tuple[Group, ...] = ()
    keys: tuple[int, ...] = ()
    shifts: tuple[float, ...] = ()


class HierarchicalCalibration:
    """Log-odds times `slope`, plus `intercept`, plus the shifts of the row's groups; unknown values shift nothing."""

    def __init__(self, slope: float, intercept: float, shifts: Statistics) -> None:
        if any(group.request and group.ad for group in shifts.groups):
            raise ValueError("a calibration's groups look at the request or at the ad, not at both")
        self.slope = slope
        self.intercept = intercept
        self.shifts = shifts
        self._shared = shifts.slots.shared_groups
        #: The columns that a request's shift depends on.
        self.reads = [
            shifts.columns.request.index(name) for group in shifts.groups[: self._shared] for name in group.request
        ]
        self._known: dict[tuple[int, ...], float] = {}

    def logits(
        self, logits: NDArray[np.float64], requests: NDArray[np.int64], ads: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return calibrated log-odds, float64 (n,), of request rows (n or 1, R) and ad rows (n, A)."""
        deltas = self.shifts.deltas(requests, ads)
        # In the order in which a prepared calibration adds, so that both give the same to the last bit.
        offsets: NDArray[np.float64] = deltas[:, : self._shared].sum(axis=1, dtype=np.float64)
        offsets += self.intercept
        offsets += deltas[:, self._shared :].sum(axis=1, dtype=np.float64)
        calibrated: NDArray[np.float64] = logits * self.slope + offsets
        return calibrated

    def __call__(
        self, logits: NDArray[np.float64], requests: NDArray[np.int64], ads: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return calibrated probabilities, as `logits` does."""
        return sigmoid(self.logits(logits, requests, ads))

    def prepare(self, ads: NDArray[np.int64]) -> "PreparedCalibration":
        """Return the calibration for ads of this table, (C, A)."""
        nothing = np.zeros((1, len(self.shifts.columns.request)), dtype=np.int64)
        deltas = self.shifts.deltas(nothing, ads)[:, self._shared :]
        return PreparedCalibration(self, deltas.sum(axis=1, dtype=np.float64))

    def request_shift(self, request: NDArray[np.int64]) -> float:
        """Return intercept and shift of a request row (R,), which all its candidates share."""
        values = tuple([request.item(column) for column in self.reads])
        shift = self._known.get(values)
        if shift is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            nothing = np.zeros((1, len(self.shifts.columns.ad)), dtype=np.int64)
            deltas = self.shifts.deltas(request[np.newaxis], nothing)[0, : self._shared]
            shift = self._known[values] = self.intercept + float(deltas.sum(dtype=np.float64))
        return shift

    def spec(self) -> CalibrationSpec:
        """Return what `restore` needs, fit for JSON."""
        table = self.shifts.table()
        return CalibrationSpec(
            self.slope,
            self.intercept,
            self.shifts.groups,
            tuple(table["key"].tolist()),
            tuple(table["value"].tolist()),
        )


class PreparedCalibration:
    """The calibration for a fixed table of ads."""

    def __init__(self, calibration: HierarchicalCalibration, shifts: NDArray[np.float64]) -> None:
        self.calibration = calibration
        self.shifts = shifts  # (C,)
        self._slope = np.array(calibration.slope)

    def offsets(self, request: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what is added to the scaled log-odds, float64 (K,), of a request row (R,) and K rows of the table."""
        offsets: NDArray[np.float64] = self.shifts.take(chosen)
        offsets += self.calibration.request_shift(request)
        return offsets

    def __call__(self, logits: NDArray[Any], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities, float64 (K,), of log-odds (K,) with their offsets (K,)."""
        scaled: NDArray[np.float64] = logits * self._slope
        scaled += offsets
        return sigmoid(scaled)


class PairedCalibration:
    """Two calibrations for a fixed table of ads, a column each: a step of numpy takes as long for both as for one.

    Slopes and shifts have their signs turned, as the log-odds' would be turned anyway.
    """

    def __init__(
        self, pair: tuple[PreparedCalibration, PreparedCalibration], weights: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        """`weights` are of the log-odds, before they are calibrated."""
        first, second = pair
        self._pair = first.calibration, second.calibration
        self._slopes = [-one.slope * weight for one, weight in zip(self._pair, weights, strict=True)]
        self._shifts = -np.stack([first.shifts, second.shifts], axis=1)  # (C, 2)
        self._reads = sorted({column for one in self._pair for column in one.reads})
        # By K and what the shifts depend on: slopes and the request's shifts, (K, 2). Broadcast, rows of two numbers
        # would be gone over one by one.
        self._known: dict[tuple[int, ...], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def __call__(
        self, logits: NDArray[Any], request: NDArray[np.int64], chosen: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the probabilities, float64 (K, 2), of log-odds (K, 2) that a request row (R,) has for K rows of the
        table.

        They are what the calibrations give by themselves, to the last bit, where weights are 1.
        """
        return self._rates(logits, chosen, *self._of(request, len(chosen)))

    def of_all(self, logits: NDArray[Any], asked: Sequence[Asked]) -> NDArray[np.float64]:
        """Return the probabilities, float64 (n, 2), of the log-odds (n, 2) of several impressions."""
        slopes, shifts = zip(*[self._of(request, len(chosen)) for request, chosen in asked], strict=True)
        chosen = np.concatenate([chosen for _, chosen in asked])
        return self._rates(logits, chosen, np.concatenate(slopes), np.concatenate(shifts))

    def _rates(
        self,
        logits: NDArray[Any],
        chosen: NDArray[np.int64],
        slopes: NDArray[np.float64],
        shifts: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        scaled = logits.astype(np.float64)  # one cast, and not one in each step
        scaled *= slopes
        offsets = self._shifts.take(chosen, 0)
        offsets += shifts
        scaled += offsets
        return of_negated(scaled)

    def _of(self, request: NDArray[np.int64], rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        told = rows, *[request.item(column) for column in self._reads]
        return self._known.get(told) or self._repeat(told, request)

    def _repeat(
        self, told: tuple[int, ...], request: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        shifts = [-one.request_shift(request) for one in self._pair]
        self._known[told] = np.tile(self._slopes, (told[0], 1)), np.tile(shifts, (told[0], 1))
        return self._known[told]


def platt(slope: float = 1.0, intercept: float = 0.0, columns: Columns = PLATFORM_COLUMNS) -> HierarchicalCalibration:
    """Return a calibration without groups; by default one that leaves everything as it is."""
    return restore(CalibrationSpec(slope, intercept), columns)


def restore(spec: CalibrationSpec, columns: Columns = PLATFORM_COLUMNS) -> HierarchicalCalibration:
    """Return the calibration of its JSON form.

    Raises:
        ValueError: numbers that are not finite, keys without shifts, or columns that are not there.
    """
    if not np.isfinite([spec.slope, spec.intercept, *spec.shifts]).all() or len(spec.keys) != len(spec.shifts):
        raise ValueError("calibration has another form")
    return HierarchicalCalibration(spec.slope, spec.intercept, shifts(spec.groups, spec.keys, spec.shifts, columns))


def shifts(
    groups: Sequence[Group],
    keys: Sequence[int] | NDArray[np.uint64],
    values: Sequence[float] | NDArray[np.float64],
    columns: Columns,
) -> Statistics:
    """Return the shifts of keys (as models.serving.statistics makes them) as statistics that know no base rate."""
    return Statistics(groups, 0.0, np.array(keys, dtype=np.uint64), np.array(values, dtype=np.float32), columns)
