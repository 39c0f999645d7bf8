"""The draw among a line item's creatives."""

from collections import Counter

import numpy as np

from dsp.funnel import candidates
from tests.lots import LOTS


def draw(owners: list[int], rows: list[int], lot: int, unfit: tuple[int, ...] = ()) -> list[int]:
    known = np.array(owners)
    lots = np.random.default_rng(7).integers(0, 2**63, len(owners)).astype(np.uint64)
    some = candidates.spans(np.array(rows), np.searchsorted(known, np.arange(max(owners) + 2)))
    fitting = ~np.isin(some.creatives, unfit)
    drawn: list[int] = candidates.draw(some, fitting, lots, lot).tolist()
    return drawn


def test_spans_are_the_creatives_of_each() -> None:
    start = np.array([0, 3, 3, 4, 6])
    creatives, begins, counts = candidates.spans(np.array([0, 2, 3]), start)
    assert creatives.tolist() == [0, 1, 2, 3, 4, 5]
    assert (begins.tolist(), counts.tolist()) == ([0, 3, 4], [3, 1, 2])
    assert candidates.spans(np.array([3]), start).creatives.tolist() == [4, 5]


def test_draw_is_one_for_each_and_repeats() -> None:
    owners = [2, 2, 2, 5, 9, 9]
    for lot in LOTS[:50]:
        first = draw(owners, [2, 5, 9], lot)
        assert first == draw(owners, [2, 5, 9], lot)
        assert [owners[one] for one in first] == [2, 5, 9]
        # Who else is in the running changes nothing.
        assert draw(owners, [2, 9], lot) == [first[0], first[2]]
        unfit = tuple({0, 1, 2} - {first[0]})
        assert draw(owners, [2, 5, 9], lot, unfit) == first


def test_who_has_none_that_fits_gets_none() -> None:
    owners = [2, 2, 5, 9, 9]
    for lot in LOTS[:50]:
        found = draw(owners, [2, 5, 9], lot, unfit=(0, 2))
        assert found[0] == 1
        assert [owners[one] for one in found] == [2, 9]


def test_draw_is_fair() -> None:
    owners = [0] * 5
    counts = Counter(draw(owners, [0], lot)[0] for lot in LOTS[:5_000])
    assert len(counts) == 5
    # Chi-square with 4 degrees of freedom: 23.5 is passed once in ten thousand times.
    assert sum((count - 1_000) ** 2 / 1_000 for count in counts.values()) < 23.5


def test_draws_of_line_items_are_independent() -> None:
    """Two line items with two creatives each: all four combinations come up alike."""
    pairs = Counter(tuple(draw([0, 0, 1, 1], [0, 1], lot)) for lot in LOTS[:4_000])
    assert len(pairs) == 4
    assert sum((count - 1_000) ** 2 / 1_000 for count in pairs.values()) < 21.1


def test_a_hash_of_zero_is_drawn_like_any_other() -> None:
    some = candidates.spans(np.array([0, 1]), np.array([0, 2, 3]))
    lots = np.full(3, LOTS[0], dtype=np.uint64)  # the impression's own: all hashes are 0
    assert candidates.draw(some, np.array([False, True, True]), lots, LOTS[0]).tolist() == [1, 2]
