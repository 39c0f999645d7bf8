"""How much rows count: less the older they are, and alike however they were sampled."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dsp.kernel.clock import MS_PER_DAY
from models.training.rows import Rows

_OFFSET_MIN = 1.0


def recent(rows: Rows, half_life_days: float) -> Rows:
    """Return rows that count half as much for every half-life they are older than the latest; 0: as they are."""
    if not half_life_days or not len(rows):
        return rows
    age_days = (rows.at_ms.max() - rows.at_ms) / MS_PER_DAY
    return replace(rows, weights=rows.weights * 0.5 ** (age_days / half_life_days))


class Sampling(NamedTuple):
    """How rows of each label were sampled: what one of them stands for on average."""

    negative: float = 1.0
    positive: float = 1.0

    @property
    def offset(self) -> float:
        """Return what is to be added to log-odds learned from rows whose sampling was undone."""
        return float(np.log(self.positive / self.negative))

    def undo(self, rows: Rows) -> Rows:
        """Return the rows weighed alike: one that stands for hundreds tells no more than one that stands for itself."""
        return replace(rows, weights=rows.weights / np.where(rows.labels, self.positive, self.negative))


def sampling(rows: Rows) -> Sampling:
    """Return how these rows were sampled; alike, if their weights do not differ much by label."""
    if not rows.weights @ rows.labels > 0.0 or not rows.weights @ ~rows.labels > 0.0:
        return Sampling()
    found = Sampling(float(rows.weights[~rows.labels].mean()), float(rows.weights[rows.labels].mean()))
    # Recency weighs labels alike apart from chance; only what sampling does is worth undoing.
    return Sampling() if abs(found.offset) < _OFFSET_MIN else found
