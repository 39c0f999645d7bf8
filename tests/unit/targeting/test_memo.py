"""What is remembered holds only for the line items that were alive, and is bounded."""

import numpy as np

from dsp.catalog.reasons import Exclusion
from dsp.targeting import bitmap
from dsp.targeting.memo import Fit, Memo


def test_other_line_items_alive_forget_everything() -> None:
    memo, live, later = Memo(), bitmap.ones(3), bitmap.ones(3)
    memo.put("a", live, Exclusion.DEAL)
    assert memo.get("a", live) is Exclusion.DEAL
    assert memo.get("b", live) is None
    assert memo.get("a", later) is None
    memo.put("b", later, Exclusion.SIZE)
    assert memo.get("a", later) is None
    assert memo.get("b", later) is Exclusion.SIZE


def test_large_fits_are_forgotten_before_they_fill_memory() -> None:
    memo, live, many = Memo(), bitmap.ones(3), np.arange(100_000)
    fit = Fit(many, many, many, many)
    kept = 0
    for number in range(40):
        memo.put(number, live, fit)
        kept = max(kept, sum(memo.get(key, live) is not None for key in range(number + 1)))
    assert memo.get(39, live) is fit
    assert 1 <= kept <= 10
