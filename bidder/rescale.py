"""Keeps spend where it was when predictions change: a multiplier was learned on the values that it is applied to.

A new model, or the first rates learned, may multiply all predicted values of a line item. The pacing worker would see
that by the money only. So the bidder scores what it scored lately by both predictors, and scales the multiplier by
the ratio. The correction fades over hours, in which the worker's level takes its place.
"""

from collections.abc import Mapping
from math import exp
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bidder.state import Scored, Served
from dsp.pacing.controller import ControlColumns, Controls, align
from dsp.pricing.value import value_micros_cpm
from models.serving.predictor import Scorer

#: What is left of a correction after so long is a part of e. Slow enough for a controller to follow on plan.
FADE_MS = 48 * 3_600_000
#: A smaller shift is left to the controller.
SHIFT_MIN = 0.05
#: Impressions that weigh as much as the belief that nothing has changed.
_PRIOR_IMPRESSIONS = 2.0


class Shift(NamedTuple):
    """By how much a line item's predicted values have grown, in logs, as of an instant of the controls' time."""

    log_ratio: float
    at_ms: int


class Rescaler:
    """The shifts of all line items since the process began."""

    def __init__(self) -> None:
        self._shifts: dict[int, Shift] = {}

    def learn(self, ratios: Mapping[int, float], now_ms: int) -> None:
        """Take what `Comparison.ratios` found; `now_ms` is the time of the controls that are obeyed."""
        for number, ratio in ratios.items():
            self._shifts[number] = Shift(self._left(number, now_ms) + ratio, now_ms)

    def scaled(self, controls: Controls | None, line_item_ids: NDArray[np.int64]) -> ControlColumns:
        """Return the controls in the order of `line_item_ids` (N,), corrected for what has shifted.

        Only what a budget holds down is: who bids what an impression is worth goes on doing so, with the new values,
        and nobody comes to bid more than that.
        """
        columns = align(controls, line_item_ids)
        if controls is None or not self._shifts:
            return columns
        multiplier = columns.multiplier.copy()
        for row, number in enumerate(line_item_ids.tolist()):
            control = controls.line_items.get(number)
            if number in self._shifts and control is not None and control.multiplier < control.ceiling:
                scale = exp(-self._left(number, controls.at_ms))
                multiplier[row] = min(control.multiplier * scale, control.ceiling)
        return msgspec.structs.replace(columns, multiplier=multiplier)

    def _left(self, number: int, now_ms: int) -> float:
        shift = self._shifts.get(number)
        return 0.0 if shift is None else shift.log_ratio * exp(-max(now_ms - shift.at_ms, 0) / FADE_MS)


class Comparison:
    """Sums of the values that two predictors see in the same impressions, by line item of one snapshot."""

    def __init__(self, served: Served, before: Scorer, after: Scorer) -> None:
        self._served, self._scorers = served, (before, after)
        count = len(served.snapshot.line_item_ids)
        self._sums, self._impressions = np.zeros((2, count)), np.zeros(count)

    def add(self, scored: Scored) -> None:
        """Score an impression twice, where scorers are called; one of another snapshot tells nothing."""
        if scored.served is not self._served:
            return
        rows, snapshot = scored.rows, self._served.snapshot
        terms = snapshot.goal_kind.take(rows), snapshot.target_micros.take(rows)
        found = [value_micros_cpm(*terms, *one.predict(scored.features, scored.creatives)) for one in self._scorers]
        values = np.array(found)
        valued = (np.isfinite(values) & (values > 0.0)).all(axis=0)
        for sums, of_one in zip(self._sums, values, strict=True):
            np.add.at(sums, rows[valued], of_one[valued])
        np.add.at(self._impressions, rows[valued], 1.0)

    def ratios(self) -> dict[int, float]:
        """Return the log of the ratio of the sums, after over before, by line item id, where it is worth speaking of.

        Sums, as it is the impressions of great value that are bought.
        """
        known = np.flatnonzero(self._impressions)
        weights = self._impressions[known] / (self._impressions[known] + _PRIOR_IMPRESSIONS)
        logs = np.log(self._sums[1, known] / self._sums[0, known]) * weights
        ids = self._served.snapshot.line_item_ids[known].tolist()
        return {number: ratio for number, ratio in zip(ids, logs.tolist(), strict=True) if abs(ratio) >= SHIFT_MIN}
