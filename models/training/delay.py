"""Conversions that have not come yet: how late they are, and what a click without one is worth as a negative.

A click that is an hour old and has not converted is not a negative: most of its conversions are still to come. Left
out until they are sure, young clicks tell nothing of a new campaign; counted as negatives, they make it look worthless
just when it begins. Here each counts for as much as is known of it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The delay's distribution is a line between these steps: the first, then each so much longer than the one before.
_FIRST_MS = 100
_RATIO = 1.5
#: Conversions that a group must show to weigh as much as all groups' delays, and as much as their conversion rate.
_SHAPE_CONVERSIONS = 20.0
_RATE_CONVERSIONS = 2.0
#: Evidence against late conversions to begin with: a few very late ones must not make every click immature.
_EARLY_CONVERSIONS = 5.0
_RATE_MAX = 0.95


class Outcomes(NamedTuple):
    """What is known of n clicks: their group (an advertiser's id), when they were, and the conversion's delay.

    `age_ms` is the time from the click to now, `delay_ms` that from the click to its first conversion, -1 without one.
    """

    groups: NDArray[np.int64]
    age_ms: NDArray[np.int64]
    delay_ms: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delays:
    """Of the conversions that come within the window, the share that has come by an age; a row of `cdf` per group."""

    edges_ms: NDArray[np.int64]  # (B + 1,), from 0 to the window
    groups: NDArray[np.int64]  # (G,) ascending
    cdf: NDArray[np.float64]  # (G + 1, B + 1), the last row of groups that have none of their own

    def arrived(self, groups: NDArray[np.int64], age_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of a click's conversions that has come by its age, float64 (n,) in [0, 1]."""
        place = np.minimum(self.groups.searchsorted(groups), max(len(self.groups) - 1, 0))
        known = self.groups[place] == groups if len(self.groups) else np.zeros(len(groups), dtype=np.bool_)
        row = np.where(known, place, len(self.groups))
        age = np.clip(age_ms, 0, self.edges_ms[-1])
        step = np.clip(self.edges_ms.searchsorted(age, side="right") - 1, 0, len(self.edges_ms) - 2)
        begin, end = self.edges_ms[step], self.edges_ms[step + 1]
        low, high = self.cdf[row, step], self.cdf[row, step + 1]
        share: NDArray[np.float64] = low + (high - low) * (age - begin) / (end - begin)
        return share


def fit(seen: Outcomes, window_ms: int) -> Delays:
    """Estimate how late conversions come from those that have come, given how late each could have been seen.

    A conversion is only seen if it comes before now, so delays are right-truncated by the click's age. The product
    limit over reverse hazards, the share of a step among conversions up to it whose clicks are older than the step,
    is free of that (Lynden-Bell 1971; Kalbfleisch and Lawless 1989, for late reports of a disease). It needs no
    conversion rate. A group's hazards are shrunk to those of all. What even the oldest click is too young to show
    is taken not to come.
    """
    edges = _edges(window_ms)
    came = (seen.delay_ms >= 0) & (seen.delay_ms <= window_ms)
    steps = np.clip(edges.searchsorted(seen.delay_ms[came], side="left") - 1, 0, len(edges) - 2)
    # The last step whose end each click has lived to see, -1 for none.
    lived = edges.searchsorted(seen.age_ms[came], side="right") - 2
    groups, codes = np.unique(seen.groups[came], return_inverse=True)
    shape = (len(groups), len(edges) - 1)
    hits, risk = np.zeros(shape), np.zeros(shape)
    for step in range(shape[1]):
        counted = (steps <= step) & (lived >= step)
        risk[:, step] = np.bincount(codes[counted], minlength=shape[0])
        hits[:, step] = np.bincount(codes[counted & (steps == step)], minlength=shape[0])
    together = hits.sum(axis=0) / (risk.sum(axis=0) + _EARLY_CONVERSIONS)
    own = (hits + _SHAPE_CONVERSIONS * together) / (risk + _SHAPE_CONVERSIONS)
    hazards = np.concatenate((own, together[np.newaxis]))
    # Nothing has come at once: the first step holds all that is left.
    hazards[:, 0] = 1.0
    cdf = np.ones((len(groups) + 1, len(edges)))
    cdf[:, :-1] = np.cumprod((1.0 - hazards)[:, ::-1], axis=1)[:, ::-1]
    return Delays(edges, groups, cdf)


def weigh(seen: Outcomes, window_ms: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return (labels, weights), both (n,), for any learner that honours weights: whether a click will have converted.

    A click that converted weighs 1. One that has not weighs F (1 - p) / (1 - p F), F being the share of conversions
    that has come by its age and p its group's conversion rate: these are the importance weights 1 / F and
    (1 - p) / (1 - p F) of Yasui et al. (2020), both times F. They are as unbiased, never above 1, and a click counts
    as much as is known of it. The rate enters in second order only.

    `window_ms` is the attribution window: a later conversion is none.
    """
    labels = (seen.delay_ms >= 0) & (seen.delay_ms <= window_ms)
    share = fit(seen, window_ms).arrived(seen.groups, seen.age_ms)
    rate = _rates(seen.groups, labels, share)
    return labels, np.where(labels, 1.0, share * (1.0 - rate) / (1.0 - rate * share))


def _rates(groups: NDArray[np.int64], labels: NDArray[np.bool_], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each click's group's conversion rate, (n,): conversions over sums of F, shrunk to that of all."""
    overall = labels.sum() / max(float(share.sum()), 1.0)
    _, codes = np.unique(groups, return_inverse=True)
    positives, expected = np.bincount(codes, labels), np.bincount(codes, share) * overall
    rates = overall * (positives + _RATE_CONVERSIONS) / (expected + _RATE_CONVERSIONS)
    own: NDArray[np.float64] = np.minimum(rates, _RATE_MAX)[codes]
    return own


def _edges(window_ms: int) -> NDArray[np.int64]:
    edges = [0]
    step = float(_FIRST_MS)
    while step < window_ms:
        edges.append(round(step))
        step *= _RATIO
    return np.array([*edges, window_ms], dtype=np.int64)
