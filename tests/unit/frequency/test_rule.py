"""The rule itself; its place in the funnel is in tests/cases/funnel/caps*.json."""

import pytest

from dsp.catalog.exposures import pack
from dsp.catalog.terms import FrequencyCap
from dsp.catalog.user import Exposure
from dsp.frequency.rule import CapBook, Capped, capped, reached

NOW_MS = 1_750_000_000_000
MINUTE = FrequencyCap(impressions=2, window_seconds=60)


@pytest.mark.parametrize(
    ("ages_ms", "expected"),
    [([], False), ([0], False), ([0, 59_999], True), ([0, 60_000], False), ([-5_000, -5_000], True), ([1, 2, 3], True)],
)
def test_sliding_window(ages_ms: list[int], expected: bool) -> None:
    assert reached([NOW_MS - age_ms for age_ms in ages_ms], [MINUTE], NOW_MS) is expected


def test_any_of_several_caps() -> None:
    hour = FrequencyCap(impressions=3, window_seconds=3_600)
    seen_ms = [NOW_MS - 100_000, NOW_MS - 200_000, NOW_MS - 300_000]
    assert reached(seen_ms, [MINUTE, hour], NOW_MS)
    assert not reached(seen_ms[1:], [MINUTE, hour], NOW_MS)


def test_levels_are_counted_apart() -> None:
    book = CapBook({1: [MINUTE], 2: [MINUTE]}, {10: [MINUTE]}, {100: [MINUTE]})
    seen = [
        Exposure(bid_id=str(number), at_ms=NOW_MS, advertiser_id=100, campaign_id=10, line_item_id=line_item)
        for number, line_item in enumerate((1, 2, 3))
    ]
    # No line item was seen twice, their campaign and advertiser were.
    assert capped(pack(seen), book, NOW_MS) == Capped([], [10], [100])
    assert capped(pack(seen), CapBook(), NOW_MS) == Capped([], [], [])


def test_nobody_is_capped_before_the_cap_is_reached() -> None:
    book = CapBook({1: [MINUTE]}, {10: [MINUTE]}, {100: [MINUTE]})
    once, again = [
        Exposure(bid_id=bid_id, at_ms=NOW_MS, advertiser_id=100, campaign_id=10, line_item_id=1) for bid_id in "ab"
    ]
    assert capped(pack([once]), book, NOW_MS) == Capped([], [], [])
    assert capped(pack([once, again]), book, NOW_MS) == Capped([1], [10], [100])


def test_a_book_knows_its_longest_window_and_who_has_caps() -> None:
    book = CapBook({1: [MINUTE]}, {10: [FrequencyCap(impressions=1, window_seconds=3_600), MINUTE]}, {100: [MINUTE]})
    assert book.window_ms_max == 3_600_000
    assert CapBook().window_ms_max == 0
    assert [book.any(*ids) for ids in ((1, 0, 0), (0, 10, 0), (0, 0, 100), (2, 11, 101))] == [True, True, True, False]
