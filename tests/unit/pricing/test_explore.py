"""Exploration: a share of auctions, each factor equally often and with its probability, by a draw that is a secret."""

from collections import Counter

import pytest

from dsp.pricing.explore import FACTORS, Explorer


def test_shares_and_propensities_agree() -> None:
    explorer = Explorer(b"key", 0.2)
    drawn = [explorer.draw(f"auction {number}", "1") for number in range(20_000)]
    counts = Counter(drawn)
    assert len(counts) == len(FACTORS) + 1
    for jitter, count in counts.items():
        assert count / len(drawn) == pytest.approx(jitter.propensity, abs=0.01)
    assert sum(jitter.propensity for jitter in counts) == pytest.approx(1.0)


def test_the_draw_depends_on_key_and_ids_alone() -> None:
    explorer = Explorer(b"key", 0.5)
    drawn = [explorer.draw("a", str(number)) for number in range(60)]
    assert drawn == [Explorer(b"key", 0.5).draw("a", str(number)) for number in range(60)]
    assert len(set(drawn)) > 3
    assert drawn != [explorer.draw("b", str(number)) for number in range(60)]
    assert drawn != [Explorer(b"another", 0.5).draw("a", str(number)) for number in range(60)]


def test_any_auction_id_is_fine() -> None:
    for auction_id in ("", "\ud800", "x" * 100_000):
        assert Explorer(b"k" * 100, 0.5).draw(auction_id, "1").factor > 0


def test_nothing_is_explored_without_a_share() -> None:
    assert all(Explorer(b"key", 0.0).draw(str(number), "1") == (1.0, 1.0) for number in range(500))
