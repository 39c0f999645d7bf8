"""The throttle: shares, determinism, independence."""

import numpy as np
import pytest

from dsp.pacing.throttle import passes
from tests.lots import LOTS

IDS = np.arange(1, 41, dtype=np.int64)


def _share(rate: float) -> float:
    rates = np.full(len(IDS), rate)
    return float(np.mean([passes(lot, IDS, rates) for lot in LOTS[:3_000]]))


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.93])
def test_a_pass_rate_is_the_share_of_auctions(rate: float) -> None:
    assert _share(rate) == pytest.approx(rate, abs=0.005)


def test_the_ends_are_exact() -> None:
    assert passes(1, IDS, np.ones(len(IDS))).all()
    assert not passes(1, IDS, np.zeros(len(IDS))).any()
    mixed = np.where(IDS % 2 == 0, 1.0, 0.0)
    assert passes(1, IDS, mixed).tolist() == (IDS % 2 == 0).tolist()


def test_the_draw_depends_on_lot_and_line_item_alone() -> None:
    rates = np.full(len(IDS), 0.5)
    whole = passes(1, IDS, rates)
    backwards = passes(1, IDS[::-1].copy(), rates)
    assert whole.tolist() == backwards[::-1].tolist()
    assert whole[3:4].tolist() == passes(1, IDS[3:4], rates[3:4]).tolist()
    assert whole.tolist() != passes(2, IDS, rates).tolist()


def test_line_items_are_drawn_independently() -> None:
    rates = np.full(len(IDS), 0.5)
    draws = np.array([passes(lot, IDS, rates) for lot in LOTS[:4_000]], dtype=np.float64)
    correlations = np.corrcoef(draws.T) - np.eye(len(IDS))
    assert np.abs(correlations).max() < 0.09  # 5.7 standard errors


def test_a_lot_decides_the_same_in_later_releases() -> None:
    ids = np.arange(64) * 2**56 + np.arange(64)
    assert np.packbits(passes(0x0123456789ABCDEF, ids, np.full(64, 0.5))).tobytes().hex() == "1b2c09db8d6e8115"


def test_raising_a_rate_only_adds_auctions() -> None:
    for lot in LOTS[:200]:
        low = passes(lot, IDS, np.full(len(IDS), 0.3))
        high = passes(lot, IDS, np.full(len(IDS), 0.6))
        assert not (low & ~high).any()


@pytest.mark.parametrize("lot", [0, 2**63, 2**64 - 1])
def test_any_lot_is_fine(lot: int) -> None:
    assert passes(lot, IDS, np.full(len(IDS), 0.5)).shape == IDS.shape
