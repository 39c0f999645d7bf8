"""Exploration: a share of auctions, each factor equally often and with its probability."""

from collections import Counter

import pytest

from dsp.pricing.explore import FACTORS, draw
from tests.lots import LOTS


def test_shares_and_propensities_agree() -> None:
    drawn = [draw(lot, 0.2) for lot in LOTS]
    counts = Counter(drawn)
    assert len(counts) == len(FACTORS) + 1
    for jitter, count in counts.items():
        assert count / len(drawn) == pytest.approx(jitter.propensity, abs=0.01)
    assert sum(jitter.propensity for jitter in counts) == pytest.approx(1.0)


def test_the_ends_are_exact() -> None:
    assert draw(0, 0.2).factor == FACTORS[0]
    assert draw(2**64 - 1, 1.0) == (FACTORS[-1], 1.0 / len(FACTORS))
    assert all(draw(lot, 0.0) == (1.0, 1.0) for lot in (0, *LOTS[:500]))
