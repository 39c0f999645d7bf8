"""The throttle: shares, determinism, independence."""

import numpy as np
import pytest

from dsp.pacing.throttle import passes

IDS = np.arange(1, 41, dtype=np.int64)


def _share(rate: float, auctions: int = 3_000) -> float:
    rates = np.full(len(IDS), rate)
    return float(np.mean([passes(f"auction-{number}", IDS, rates) for number in range(auctions)]))


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.93])
def test_a_pass_rate_is_the_share_of_auctions(rate: float) -> None:
    assert _share(rate) == pytest.approx(rate, abs=0.005)


def test_the_ends_are_exact() -> None:
    assert passes("a", IDS, np.ones(len(IDS))).all()
    assert not passes("a", IDS, np.zeros(len(IDS))).any()
    mixed = np.where(IDS % 2 == 0, 1.0, 0.0)
    assert passes("a", IDS, mixed).tolist() == (IDS % 2 == 0).tolist()


def test_the_draw_depends_on_auction_line_item_and_key_alone() -> None:
    rates = np.full(len(IDS), 0.5)
    whole = passes("a", IDS, rates)
    backwards = passes("a", IDS[::-1].copy(), rates)
    assert whole.tolist() == backwards[::-1].tolist()
    assert whole[3:4].tolist() == passes("a", IDS[3:4], rates[3:4]).tolist()
    assert whole.tolist() != passes("b", IDS, rates).tolist()
    assert whole.tolist() != passes("a", IDS, rates, key=b"another").tolist()


def test_line_items_are_drawn_independently() -> None:
    rates = np.full(len(IDS), 0.5)
    draws = np.array([passes(f"{number}", IDS, rates) for number in range(4_000)], dtype=np.float64)
    correlations = np.corrcoef(draws.T) - np.eye(len(IDS))
    assert np.abs(correlations).max() < 0.09  # 5.7 standard errors


def test_an_auction_replayed_by_a_later_release_draws_the_same_lots() -> None:
    """Whoever changes these numbers changes which auctions a log of before is replayed into."""
    ids = np.arange(64) * 2**56 + np.arange(64)
    assert np.packbits(passes("auction-1", ids, np.full(64, 0.5))).tobytes().hex() == "80a46d2000fa90bf"


def test_raising_a_rate_only_adds_auctions() -> None:
    for number in range(200):
        low = passes(f"{number}", IDS, np.full(len(IDS), 0.3))
        high = passes(f"{number}", IDS, np.full(len(IDS), 0.6))
        assert not (low & ~high).any()


@pytest.mark.parametrize("auction_id", ["", "é\u4e2d\U0001f600", "\ud800", "x" * 100_000])
def test_any_auction_id_is_fine(auction_id: str) -> None:
    assert passes(auction_id, IDS, np.full(len(IDS), 0.5)).shape == IDS.shape
