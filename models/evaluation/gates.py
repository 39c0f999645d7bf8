"""Decides whether a new model may replace what serves now."""

from collections.abc import Mapping
from typing import NamedTuple

from models.evaluation.metrics import Metrics


class Limits(NamedTuple):
    """How much worse in log loss (relative) a candidate may be than each baseline, and how far off in sum."""

    log_loss_tolerance: float
    pcoc_min: float
    pcoc_max: float


class Comparison(NamedTuple):
    """A candidate and a baseline, measured on the same rows."""

    candidate: Metrics
    baseline: Metrics


def refusals(comparisons: Mapping[str, Comparison], limits: Limits) -> list[str]:
    """Return why the candidate is refused, a sentence for each reason; empty when it passes.

    `comparisons` has an entry for each baseline by name. What cannot be measured is a reason.
    """
    reasons: list[str] = []
    for name, (candidate, baseline) in comparisons.items():
        if candidate.log_loss is None or baseline.log_loss is None or candidate.pcoc is None:
            reasons.append(f"there are no clicks to compare with {name} on")
            continue
        if candidate.log_loss > baseline.log_loss * (1.0 + limits.log_loss_tolerance):
            reasons.append(f"log loss {candidate.log_loss:.5f} is worse than {baseline.log_loss:.5f} of {name}")
        if not limits.pcoc_min <= candidate.pcoc <= limits.pcoc_max:
            reasons.append(f"predictions sum up to {candidate.pcoc:.2f} times the clicks (beside {name})")
    return reasons
