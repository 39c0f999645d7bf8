"""What is remembered holds only for the line items that were alive, and is bounded."""

import numpy as np

from dsp.catalog.reasons import Exclusion
from dsp.targeting import bitmap
from dsp.targeting.memo import Fit, Memo


def test_other_line_items_alive_forget_everything() -> None:
    memo, live, later = Memo(), bitmap.ones(3), bitmap.ones(3)
    one, two = [bitmap.ones(3)], [bitmap.ones(3), bitmap.zeros(3)]
    memo.put(one, live, Exclusion.DEAL)
    assert memo.get(one, live) is Exclusion.DEAL
    assert memo.get(two, live) is None
    assert memo.get([bitmap.ones(3)], live) is None
    assert memo.get(one, later) is None
    memo.put(two, later, Exclusion.SIZE)
    assert memo.get(one, later) is None
    assert memo.get(two, later) is Exclusion.SIZE


def test_rows_are_kept_so_that_no_other_takes_their_place() -> None:
    """An array that is freed leaves its address, and so its id, to the next."""
    memo, live = Memo(), bitmap.ones(3)
    for _ in range(100):
        rows = [bitmap.ones(3)]
        assert memo.get(rows, live) is None
        memo.put(rows, live, Exclusion.DEAL)


def test_what_is_large_is_forgotten_before_it_fills_memory() -> None:
    many = np.arange(100_000)
    for rows, fit in (([bitmap.ones(3)], Fit(many, many, many, many)), ([bitmap.ones(10**7)], Exclusion.DEAL)):
        memo, live, kept = Memo(), bitmap.ones(3), []
        for _ in range(40):
            kept.append([rows[0].copy()])
            memo.put(kept[-1], live, fit)
            assert 1 <= sum(memo.get(one, live) is not None for one in kept) <= 12
        assert memo.get(kept[-1], live) is fit
