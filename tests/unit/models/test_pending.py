"""What the online learner waits for: each impression, click and conversion teaches once, whenever it is told."""

from collections.abc import Iterator

import numpy as np
import pytest

from models.training.pending import AGES_MS, BID_MS, IMPRESSION_MS, Arrivals, Lesson, Pending, Row, Target

MATURITY_MS = 60_000
ROW = Row(b"request", b"ad")


def pending(room: int = 1_000, **fields: object) -> Pending:
    return Pending(MATURITY_MS, room, **fields)  # type: ignore[arg-type]


def taught(found: Iterator[Lesson]) -> list[tuple[str, float, float]]:
    return [(lesson.target.value, round(lesson.share, 3), lesson.responses) for lesson in found]


def clicks(found: Iterator[Lesson]) -> list[tuple[float, float]]:
    return [(share, responses) for target, share, responses in taught(found) if target == "ctr"]


def test_an_impression_is_learned_once_it_is_mature_and_as_what_it_was_then() -> None:
    waits = pending()
    for bid_id in ("seen", "clicked", "lost", "unknown"):
        waits.bid(bid_id, ROW, 1_000)
    for bid_id in ("seen", "clicked", "clicked", "absent"):
        waits.seen(bid_id, 2_000)
    waits.click("clicked", 5_000)
    waits.click("clicked", 6_000)
    waits.lost("lost")
    assert clicks(waits.due(2_000 + MATURITY_MS - 1)) == []
    assert sorted(clicks(waits.due(2_000 + MATURITY_MS))) == [(1.0, 0.0), (1.0, 1.0)]
    assert clicks(waits.due(10**9)) == []
    assert (waits.counts.learned, waits.counts.clicked, waits.counts.unmatched) == (2, 1, 1)


def test_notices_may_come_before_their_bid() -> None:
    waits = pending()
    waits.click("early", 1_000)
    waits.seen("early", 1_100)
    waits.bid("early", ROW, 1_200)
    assert clicks(waits.due(1_100 + MATURITY_MS)) == [(1.0, 1.0)]


def test_a_click_without_an_impression_teaches_nothing() -> None:
    waits = pending()
    waits.bid("bid", ROW, 0)
    waits.click("bid", 1_000)
    assert clicks(waits.due(500_000)) == []


def test_a_late_click_is_a_response_of_what_was_learned_already() -> None:
    waits = pending()
    waits.bid("bid", ROW, 0)
    waits.seen("bid", 0)
    late_ms = MATURITY_MS + 1
    assert clicks(waits.due(MATURITY_MS)) == [(1.0, 0.0)]
    waits.click("bid", late_ms)
    waits.click("bid", late_ms + 1)
    assert clicks(waits.due(late_ms + 10)) == [(0.0, 1.0)]
    assert (waits.counts.learned, waits.counts.clicked, waits.counts.late) == (1, 1, 1)


def test_a_click_counts_as_not_converted_bit_by_bit_and_in_all_as_one() -> None:
    waits = pending()
    waits.bid("bid", ROW, 0)
    waits.seen("bid", 0)
    waits.click("bid", 1_000)
    found = taught(waits.due(1_000 + AGES_MS[1]))
    assert [one[0] for one in found] == ["ctr", "cvr", "cvr"]
    assert sum(share for target, share, _ in found if target == "cvr") < 0.3
    found += taught(waits.due(1_000 + AGES_MS[-1]))
    assert sum(share for target, share, _ in found if target == "cvr") == pytest.approx(1.0, abs=0.05)
    assert not waits.clicks


def test_a_conversion_is_learned_once_however_early_it_comes() -> None:
    waits = pending()
    for bid_id, converted_ms in (("early", 2_000), ("late", 3_600_000)):
        waits.bid(bid_id, ROW, 0)
        waits.seen(bid_id, 0)
        waits.click(bid_id, 1_000)
        waits.conversion(bid_id, 2_000 if bid_id == "early" else converted_ms)
    first = [one for one in taught(waits.due(MATURITY_MS)) if one[2] and one[0] == "cvr"]
    assert first == [("cvr", 0.0, 1.0)]
    waits.conversion("early", 3_600_000)
    rest = [one for one in taught(waits.due(10**10)) if one[2]]
    assert rest == [("cvr", 0.0, 1.0)]
    assert waits.counts.converted == 2


def test_what_fell_due_before_a_kill_is_not_taught_again() -> None:
    """At every instant a process may die: what two of them teach together is what one teaches."""

    def tell(waits: Pending) -> None:
        for number in range(30):
            bid_id, at_ms = f"b{number}", 1_000 * number
            waits.bid(bid_id, ROW, at_ms)
            waits.seen(bid_id, at_ms + 500)
            if number % 3 == 0:
                waits.click(bid_id, at_ms + 7_000 * number)
            if number % 6 == 0:
                waits.conversion(bid_id, at_ms + 9_000 * number)

    whole = pending()
    tell(whole)
    end_ms = 400_000
    wanted = taught(whole.due(end_ms))
    assert {one[0] for one in wanted} == {"ctr", "cvr"}
    for killed_ms in range(0, end_ms, 3_500):
        first = pending()
        tell(first)
        before = taught(first.due(killed_ms))
        again = pending(resumed_ms=killed_ms, clicks=first.clicks, arrivals=first.arrivals)
        tell(again)
        assert before + taught(again.due(end_ms)) == wanted, killed_ms


def test_room_is_bounded_and_what_is_old_is_forgotten() -> None:
    waits = pending(room=20)
    for number in range(100):
        waits.bid(f"b{number}", ROW, number)
        waits.seen(f"s{number}", number)
        waits.bid(f"s{number}", ROW, number)
        waits.click(f"s{number}", number)
    assert len(waits) == 40
    assert waits.counts.forgotten == 160
    assert len(taught(waits.due(MATURITY_MS + 100))) >= 20
    assert len(waits.clicks) == 2
    list(waits.due(AGES_MS[-1] + 100))
    waits.forget(BID_MS + IMPRESSION_MS + MATURITY_MS + 100)
    assert len(waits) == 0


@pytest.mark.parametrize("horizon_ms", [900_000, 3_000_000, 10**9])
def test_the_share_of_conversions_that_has_come_is_found_while_most_clicks_are_young(horizon_ms: int) -> None:
    """Half of conversions come within ten minutes, others take hours; clicks come evenly until now."""
    rng = np.random.default_rng(1)
    waits = pending(room=10**6)
    delays = np.where(rng.random(20_000) < 0.5, rng.uniform(0, 300_000, 20_000), rng.uniform(3.6e6, 2e7, 20_000))
    clicked = np.sort(rng.uniform(0, min(horizon_ms, 10**8), 20_000)).astype(np.int64)
    for number, (at_ms, delay_ms) in enumerate(zip(clicked.tolist(), delays.tolist(), strict=True)):
        waits.bid(str(number), ROW, at_ms)
        waits.seen(str(number), at_ms)
        waits.click(str(number), at_ms)
        if number % 4 == 0 and at_ms + delay_ms < horizon_ms:
            waits.conversion(str(number), at_ms + int(delay_ms))
    list(waits.due(horizon_ms))
    early = sum(waits.arrivals.share(step) for step in range(2))
    assert early == pytest.approx(0.5 if horizon_ms == 10**9 else 0.85, abs=0.15)


def test_before_any_conversion_none_is_expected_sooner_than_another() -> None:
    assert [Arrivals().share(step) for step in range(len(AGES_MS))] == pytest.approx([1 / len(AGES_MS)] * len(AGES_MS))
    assert Target("cvr") is Target.CONVERSION
