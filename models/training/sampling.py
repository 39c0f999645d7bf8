"""Which rows to learn from when there are more than can be: all positives, and a share of the negatives.

The engine draws them (models.training.join): of each class those whose ids have the lowest hashes, so that tomorrow
keeps what today kept. Here is how many, and what each then stands for.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Counts(NamedTuple):
    """Rows with and without a click."""

    positives: int
    negatives: int


def room(of: Counts, rows_max: int) -> Counts:
    """Return how many of each to keep, at most `rows_max` together.

    All positives are kept, unless they and the negatives are more than half of `rows_max` each.
    """
    positives = min(of.positives, max(rows_max // 2, rows_max - of.negatives))
    return Counts(positives, min(of.negatives, rows_max - positives))


def weigh(labels: NDArray[np.bool_], of: Counts) -> NDArray[np.float64]:
    """Return how many of all rows each row kept stands for, (n,): for learners, calibration and sums alike.

    A negative weighs one over the share of negatives kept. A learner without weights would find log-odds too high by
    the log of that, which q = p / (p + (1 - p) / share) takes back (He et al. 2014); with weights there is nothing to
    take back.
    """
    kept = Counts(int(labels.sum()), int((~labels).sum()))
    return np.where(labels, of.positives / max(kept.positives, 1), of.negatives / max(kept.negatives, 1))
