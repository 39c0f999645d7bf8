"""The traffic curve: what is learned from counts by hour, holes and beginnings included, and whose hours it is in."""

from math import pi, sin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.pacing.traffic import HOURS, Curves, Traffic, decode, encode, shifted

HOUR_MS = 3_600_000
DAY = 20_000
#: Midnight, UTC, in July: Berlin is two hours ahead, Kolkata five and a half, Kathmandu five and three quarters.
MIDNIGHT_MS = 20_270 * 24 * HOUR_MS
TRUTH = tuple(1.0 + 0.8 * sin(2 * pi * hour / HOURS) for hour in range(HOURS))
FLAT = (1.0,) * HOURS


def day(
    traffic: Traffic, number: int, curve: tuple[float, ...] = TRUTH, *, of: tuple[int, ...] = (1,), count: int = 600,
    hours: range = range(HOURS), minutes: range = range(60),
) -> None:  # fmt: skip
    """Let a day pass, with `count` impressions in an average hour."""
    for hour in hours:
        for place in range(round(count * curve[hour])):
            into_ms = place * HOUR_MS // round(count * curve[hour])
            if into_ms // 60_000 in minutes:
                traffic.add(((DAY + number) * HOURS + hour) * HOUR_MS + into_ms, of)


def learned(
    traffic: Traffic, *line_item_ids: int, timezone: str = "UTC"
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(Curves(traffic).local(line_item_ids, timezone, MIDNIGHT_MS))


def known(*line_item_ids: int) -> Traffic:
    traffic = Traffic()
    traffic.know(line_item_ids)
    return traffic


def test_nothing_learned_is_what_was_configured() -> None:
    assert Curves(None).local((1,), "Asia/Kolkata", MIDNIGHT_MS) == ()
    assert Curves(None, TRUTH).local((1,), "Asia/Kolkata", MIDNIGHT_MS) == TRUTH
    # Counting has begun and nothing came: the same, with every hour's weight said.
    assert learned(known(1), 1).tolist() == list(FLAT)
    configured = Curves(known(1), TRUTH).local((1,), "Europe/Berlin", MIDNIGHT_MS)
    assert configured == pytest.approx(TRUTH, abs=0.002)  # configured hours are local ones


def test_yesterday_s_curve_is_learned() -> None:
    traffic = known(1)
    day(traffic, 0)
    # 600 impressions an hour against a prior of 30: within a twentieth of the way from flat.
    assert np.abs(learned(traffic, 1) - TRUTH).max() < 0.05
    assert learned(traffic, 1).mean() == pytest.approx(1.0, abs=0.001)


def test_few_impressions_move_the_curve_little_and_many_much() -> None:
    few, many = known(1), known(1)
    day(few, 0, count=3)
    day(many, 0, count=3_000)
    assert np.abs(learned(few, 1) - 1.0).max() < 0.2 < 0.78 < np.abs(learned(many, 1) - 1.0).max()


def test_a_hole_is_not_taken_for_an_hour_without_traffic() -> None:
    """From 6 to 11, at the peak, nothing came at all: we were down. From 12 to 12:30 likewise."""
    traffic = known(1)
    day(traffic, 0, hours=range(6))
    day(traffic, 0, hours=range(12, 13), minutes=range(30, 60))
    day(traffic, 0, hours=range(13, HOURS))
    found = learned(traffic, 1)
    assert found[6:12].min() > 0.9  # assumed to be average, far from 0
    whole = known(1)
    day(whole, 0)
    # Half an hour of watching tells the same rate, and what is known keeps its shape.
    rest = [hour for hour in range(HOURS) if not 6 <= hour < 12]
    ratio = found[rest] / learned(whole, 1)[rest]
    assert ratio.max() / ratio.min() < 1.12


def test_a_hole_yesterday_is_filled_from_the_day_before() -> None:
    traffic = known(1)
    day(traffic, 0)
    day(traffic, 1, hours=range(6))
    day(traffic, 1, hours=range(12, HOURS))
    assert np.abs(learned(traffic, 1) - TRUTH).max() < 0.06


def test_half_an_hour_without_traffic_is_filled_from_the_day_before() -> None:
    traffic = known(1)
    day(traffic, 0)
    day(traffic, 1, hours=range(12))
    day(traffic, 1, hours=range(12, 13), minutes=range(30, 60))
    day(traffic, 1, hours=range(13, HOURS))
    assert np.abs(learned(traffic, 1) - TRUTH).max() < 0.06


def test_older_days_fade() -> None:
    traffic = known(1)
    for number in range(5):
        day(traffic, number)
    opposite = shifted(TRUTH, 12 * 60)
    day(traffic, 5, opposite)
    midway = learned(traffic, 1)
    for number in range(6, 10):
        day(traffic, number, opposite)
    assert np.abs(midway - 1.0).max() < 0.2  # half and half
    assert np.abs(learned(traffic, 1) - opposite).max() < 0.1


def test_after_a_pause_the_days_before_it_have_faded() -> None:
    traffic = known(1)
    day(traffic, 0)
    day(traffic, 6, shifted(TRUTH, 12 * 60))
    for line_item in (1, 99):  # its own, and the platform's
        assert np.abs(learned(traffic, line_item) - shifted(TRUTH, 12 * 60)).max() < 0.1


def test_what_comes_late_of_an_hour_long_past_does_not_count() -> None:
    traffic = known(1)
    day(traffic, 1)
    before = encode(traffic)
    traffic.add(DAY * HOURS * HOUR_MS, (1,))
    assert encode(traffic) == before


def test_hours_counted_while_a_clock_was_years_ahead_are_learned_again() -> None:
    traffic = known(1)
    day(traffic, 3_650, FLAT, hours=range(6))
    day(traffic, 0)
    day(traffic, 1)
    assert np.abs(learned(traffic, 1) - TRUTH).max() < 0.35
    day(traffic, 9)  # what was counted wrongly has faded
    assert np.abs(learned(traffic, 1) - TRUTH).max() < 0.05


def test_a_new_line_item_is_not_held_to_have_had_no_traffic_before() -> None:
    traffic = known(1)
    day(traffic, 0)
    day(traffic, 1, hours=range(12))
    traffic.know((1, 2))
    day(traffic, 1, hours=range(12, HOURS), of=(1, 2))
    # It saw half a day with the platform's shape, so it has the platform's shape.
    assert np.abs(learned(traffic, 2) - learned(traffic, 1)).max() < 0.05
    day(traffic, 2, of=(1, 2))
    assert np.abs(learned(traffic, 2) - TRUTH).max() < 0.08


def test_a_line_item_has_its_own_curve_and_without_impressions_the_platform_s() -> None:
    traffic = known(1, 2, 3)
    evening = tuple(2.0 if hour >= 12 else 0.0 for hour in range(HOURS))
    day(traffic, 0, of=(1,))
    day(traffic, 0, evening, of=(2,))
    assert learned(traffic, 2)[:12].max() < 0.12
    assert learned(traffic, 2)[12:].min() > 1.88
    platform = (np.array(TRUTH) + evening) / 2
    assert np.abs(learned(traffic, 3) - platform).max() < 0.05
    assert np.abs(learned(traffic, 1, 2) - platform).max() < 0.05  # a campaign's line items together
    assert (learned(traffic, 99) == learned(traffic, 3)).all()


def test_a_line_item_that_is_gone_is_forgotten_and_the_others_are_not() -> None:
    traffic = known(1, 2)
    day(traffic, 0, of=(1, 2))
    counted = list(traffic.line_items[2].counts)
    traffic.know((2, 3))
    day(traffic, 0, of=(1,))  # who counts may know of it a little longer
    assert list(traffic.line_items) == [2, 3]
    assert (traffic.line_items[2].counts, sum(traffic.line_items[3].counts)) == (counted, 0.0)


@pytest.mark.parametrize(
    ("timezone", "minutes"),
    [("Europe/Berlin", 120), ("America/New_York", -240), ("Asia/Kolkata", 330), ("Asia/Kathmandu", 345)],
)
def test_hours_are_the_advertiser_s(timezone: str, minutes: int) -> None:
    peak = tuple(13.0 if hour == 12 else 11.0 / 23 for hour in range(HOURS))  # from 12 to 13 UTC
    traffic = known(1)
    day(traffic, 0, peak, count=5_000)
    found = learned(traffic, 1, timezone=timezone)
    first, into = divmod((12 * 60 + minutes) % 1_440, 60)
    expected = np.full(HOURS, 11.0 / 23)
    expected[first] += (13.0 - 11.0 / 23) * (60 - into) / 60
    expected[(first + 1) % HOURS] += (13.0 - 11.0 / 23) * into / 60
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_summer_time_moves_the_curve_by_an_hour() -> None:
    traffic = known(1)
    day(traffic, 0)
    curves = Curves(traffic)
    summer = curves.local((1,), "Europe/Berlin", MIDNIGHT_MS)
    winter = curves.local((1,), "Europe/Berlin", MIDNIGHT_MS + 180 * 24 * HOUR_MS)
    assert summer == winter[-1:] + winter[:-1]


@given(st.lists(st.floats(0.0, 100.0), min_size=HOURS, max_size=HOURS), st.integers(-720, 840))
def test_shifting_keeps_the_day_s_traffic(curve: list[float], minutes: int) -> None:
    there = shifted(tuple(curve), minutes)
    assert sum(there) == pytest.approx(sum(curve))
    if minutes % 60 == 0:
        assert shifted(there, -minutes) == pytest.approx(curve)


def test_what_is_learned_survives_being_stored() -> None:
    traffic = known(1, 2)
    traffic.position = {0: 17}
    day(traffic, 0, of=(1, 2), count=30)
    assert decode(encode(traffic)) == traffic
