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


@pytest.mark.parametrize("size", [0, 1, 64, 65])
def test_all_and_none(size: int) -> None:
    assert bitmap.positions(bitmap.zeros(size)).tolist() == []
    assert bitmap.positions(bitmap.ones(size)).tolist() == list(range(size))
    assert bitmap.zeros(size).shape == bitmap.ones(size).shape
    assert bitmap.zeros(size).shape[0] >= 1


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 10_000])
def test_words_come_back_from_an_integer(size: int) -> None:
    words = bitmap.from_mask(np.random.default_rng(size).random(size) < 0.3)
    bits = bitmap.to_bits(words)
    assert [number for number in range(size) if bits >> number & 1] == bitmap.positions(words).tolist()
    assert bitmap.from_bits(bits, size).tolist() == words.tolist()


@pytest.mark.parametrize("words", [1, 256, 257, 2_000])
def test_members_are_found_in_few_words_and_in_many(words: int) -> None:
    members = sorted({0, words * 32, words * 64 - 1})
    held = bitmap.from_mask(np.isin(np.arange(words * 64), members))
    assert bitmap.positions(held).tolist() == members
    assert bitmap.held(held, np.array([0, 1, words * 64 - 1])).tolist() == [True, False, True]
