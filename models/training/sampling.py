"""Which rows to learn from when there are more than can be: all positives, and the same share of negatives always."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_KEY = b"models.training.sampling"


def lots(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Return what rows draw lots with, (n,): a keyed hash of their ids, so that tomorrow keeps those kept today."""
    digests = b"".join(blake2b(one.encode(), digest_size=8, key=_KEY).digest() for one in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def thin(
    labels: NDArray[np.bool_], lots: NDArray[np.uint64], rows_max: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which of n rows to keep, (n,), at most `rows_max`, and how many rows each of them stands for, (kept,).

    All positives are kept unless they are more than half of `rows_max`, and of the rest those with the lowest lots. A
    negative weighs one over the share of negatives kept, so learners that honour weights see the rates of all rows,
    and so do calibration and every sum. Without the weight, log-odds are too high by the log of it, which is the
    correction q = p / (p + (1 - p) / share) of He et al. (2014).
    """
    if len(labels) <= rows_max:
        return np.ones(len(labels), dtype=np.bool_), np.ones(len(labels))
    positives, negatives = np.flatnonzero(labels), np.flatnonzero(~labels)
    room = min(len(positives), max(rows_max // 2, rows_max - len(negatives)))
    keep = np.zeros(len(labels), dtype=np.bool_)
    weights = np.ones(len(labels))
    for rows, count in ((positives, room), (negatives, min(len(negatives), rows_max - room))):
        kept = rows[np.argsort(lots[rows], kind="stable")[:count]]
        keep[kept] = True
        weights[kept] = len(rows) / max(count, 1)
    return keep, weights[keep]
