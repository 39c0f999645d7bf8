"""Tiers by score: nested, ties kept together, and remembered for the same multipliers."""

import numpy as np
import pytest

from dsp.targeting import bitmap
from dsp.targeting.tiers import Ranked, Ranking


def members(words: bitmap.Words) -> set[int]:
    return set(bitmap.positions(words).tolist())


def test_a_tier_holds_the_best_half_of_the_one_below() -> None:
    score = np.random.default_rng(1).normal(size=5_000)
    ranked = Ranked(score)
    assert len(ranked.tiers) == 5  # 5,000 down to 312
    for tier, words in enumerate(ranked.tiers):
        best = np.argsort(-score)[: 5_000 >> tier]
        assert members(words) == set(best.tolist())


def test_who_ties_with_the_last_is_in_the_tier() -> None:
    ranked = Ranked(np.repeat([1.0, 2.0], [1_000, 500]))
    assert [len(members(words)) for words in ranked.tiers] == [1_500, 1_500, 500]
    same = Ranked(np.ones(1_000))
    assert [len(members(words)) for words in same.tiers] == [1_000, 1_000]


@pytest.mark.parametrize("size", [0, 1, 64, 511])
def test_few_line_items_have_one_tier(size: int) -> None:
    ranked = Ranked(np.arange(float(size)))
    assert [len(members(words)) for words in ranked.tiers] == [size]
    assert ranked.tier_of(size, 1) == 0


def test_the_tier_is_high_where_many_were_recalled() -> None:
    ranked = Ranked(np.arange(100_000.0))
    assert ranked.tier_of(100, 100) == 0
    assert ranked.tier_of(100, 10) == 3
    assert ranked.tier_of(100_000, 1_000) == 6
    assert ranked.tier_of(100_000, 1) == len(ranked.tiers) - 1
    assert ranked.tier_of(100_000, 10**9) == 0


def test_other_multipliers_rank_anew() -> None:
    ranking, ones = Ranking(np.array([1.0, 2.0])), np.ones(2)
    first = ranking.by(ones)
    assert ranking.by(ones) is first
    assert ranking.by(np.array([4.0, 1.0])).score.tolist() == [4.0, 2.0]
