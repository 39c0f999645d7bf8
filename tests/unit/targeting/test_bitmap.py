"""Bitmaps hold what was put in, at sizes around a word's end."""

import numpy as np
import pytest

from dsp.targeting import bitmap


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200, 10_000])
def test_round_trip(size: int) -> None:
    mask = np.random.default_rng(size).random(size) < 0.3
    words = bitmap.from_mask(mask)
    assert words.dtype == np.uint64
    assert bitmap.positions(words).tolist() == mask.nonzero()[0].tolist()
    assert (bitmap.mask(words)[:size] == mask).all()
    assert not bitmap.mask(words)[size:].any()
    assert (bitmap.from_positions(mask.nonzero()[0].tolist(), size) == words).all()


@pytest.mark.parametrize("size", [0, 1, 64, 65])
def test_all_and_none(size: int) -> None:
    assert bitmap.positions(bitmap.zeros(size)).tolist() == []
    assert bitmap.positions(bitmap.ones(size)).tolist() == list(range(size))
    assert bitmap.zeros(size).shape == bitmap.ones(size).shape
    assert bitmap.zeros(size).shape[0] >= 1
