"""Exploration: a share of auctions, the same in every replay, each factor equally often and with its probability."""

from collections import Counter

import pytest

from dsp.pricing.explore import FACTORS, draw


def test_shares_and_propensities_agree() -> None:
    drawn = [draw(f"auction {number}", "1", 0.2) for number in range(20_000)]
    counts = Counter(drawn)
    assert len(counts) == len(FACTORS) + 1
    for jitter, count in counts.items():
        assert count / len(drawn) == pytest.approx(jitter.propensity, abs=0.01)
    assert sum(jitter.propensity for jitter in counts) == pytest.approx(1.0)


def test_a_replay_explores_the_same_auctions() -> None:
    assert draw("a", "1", 0.5) == draw("a", "1", 0.5)
    assert len({draw("a", str(number), 0.5) for number in range(60)}) > 3


def test_nothing_is_explored_without_a_share() -> None:
    assert all(draw(str(number), "1", 0.0) == (1.0, 1.0) for number in range(500))
