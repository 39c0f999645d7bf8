"""The draw among a line item's creatives."""

from collections import Counter

import numpy as np

from dsp.funnel import candidates


def draw(owners: list[int], rows: list[int], auction_id: str) -> list[int]:
    known = np.array(owners)
    lots = np.random.default_rng(7).integers(0, 2**63, len(owners)).astype(np.uint64)
    bounds = candidates.bounds_of(known)
    places = [known[bounds[:-1]].tolist().index(row) for row in rows]
    first, counts = bounds[:-1][places], np.diff(bounds)[places]
    numbers = np.arange(len(owners)) + 100
    lots = np.concatenate((np.zeros(100, np.uint64), lots))
    drawn: list[int] = candidates.draw(numbers, first, counts, lots, auction_id).tolist()
    return drawn


def test_draw_is_one_for_each_and_repeats() -> None:
    owners = [2, 2, 2, 5, 9, 9]
    for number in range(50):
        first = draw(owners, [2, 5, 9], str(number))
        assert first == draw(owners, [2, 5, 9], str(number))
        assert [owners[one - 100] for one in first] == [2, 5, 9]
        # Who else is in the running changes nothing.
        assert draw(owners, [2, 9], str(number)) == [first[0], first[2]]


def test_draw_is_fair() -> None:
    owners = [0] * 5
    counts = Counter(draw(owners, [0], f"auction {number}")[0] for number in range(5_000))
    assert len(counts) == 5
    # Chi-square with 4 degrees of freedom: 23.5 is passed once in ten thousand times.
    assert sum((count - 1_000) ** 2 / 1_000 for count in counts.values()) < 23.5


def test_draws_of_line_items_are_independent() -> None:
    """Two line items with two creatives each: all four combinations come up alike."""
    pairs = Counter(tuple(draw([0, 0, 1, 1], [0, 1], str(number))) for number in range(4_000))
    assert len(pairs) == 4
    assert sum((count - 1_000) ** 2 / 1_000 for count in pairs.values()) < 21.1
