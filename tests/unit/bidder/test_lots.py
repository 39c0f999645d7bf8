"""What is drawn from one impression's lot: each draw without regard to the others."""

import numpy as np
import pytest

from dsp.funnel import candidates
from dsp.pacing.throttle import passes
from dsp.pricing.explore import UNMOVED, draw
from tests.lots import LOTS

SHARE, RATE = 0.02, 0.3
EXPLORED = tuple(int(lot * SHARE) for lot in LOTS)  # the lowest of all lots


def drawn(lot: int) -> int:
    """Return which of a line item's two creatives is drawn."""
    some = candidates.spans(np.array([0]), np.array([0, 2]))
    return int(candidates.draw(some, np.ones(2, dtype=np.bool_), np.array(LOTS[:2], dtype=np.uint64), lot)[0])


@pytest.mark.parametrize("lots", [LOTS, EXPLORED])
def test_neither_pacing_nor_creatives_hang_on_what_is_explored_nor_on_each_other(lots: tuple[int, ...]) -> None:
    passed = np.array([passes(lot, np.array([7]), np.array([RATE]))[0] for lot in lots])
    first = np.array([drawn(lot) == 0 for lot in lots])
    assert passed.mean() == pytest.approx(RATE, abs=0.015)  # 4.6 standard errors
    assert first.mean() == pytest.approx(0.5, abs=0.016)
    assert (passed & first).mean() == pytest.approx(RATE / 2, abs=0.012)


def test_the_lowest_lots_are_those_explored() -> None:
    assert all(draw(lot, SHARE).factor != UNMOVED.factor for lot in EXPLORED)
