"""The spend plan: shapes, bounds, days in the advertiser's zone, dayparts, catch-up."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.catalog.terms import Budget, Daypart, Flight, PacingMode
from dsp.catalog.validate import START_MS_MAX, TIME_MS_MAX, TIME_MS_MIN
from dsp.kernel.clock import MS_PER_HOUR
from dsp.pacing.plan import Plan, day_number, left_micros, plan

HOUR = MS_PER_HOUR
DAY = 24 * HOUR
MONDAY = int(datetime(2025, 6, 2, tzinfo=UTC).timestamp()) * 1_000
EVEN, AHEAD, ASAP = PacingMode.EVEN, PacingMode.AHEAD, PacingMode.ASAP


def _plan(
    now_ms: int,
    *,
    daily: int | None = None,
    total: int | None = None,
    start: int = MONDAY,
    end: int | None = MONDAY + 7 * DAY,
    dayparts: tuple[Daypart, ...] = (),
    timezone: str = "UTC",
    mode: PacingMode = EVEN,
    curve: tuple[float, ...] = (),
    before: int = 0,
) -> Plan:
    found = plan(
        Budget(daily_micros=daily, total_micros=total),
        Flight(start_ms=start, end_ms=end),
        dayparts,
        timezone,
        mode,
        curve,
        before,
        now_ms,
    )
    assert found is not None
    return found


def _planned(now_ms: int, **terms: object) -> int:
    return _plan(now_ms, **terms).planned_micros(now_ms)


def test_without_budget_there_is_no_plan() -> None:
    assert plan(Budget(), Flight(start_ms=MONDAY), (), "UTC", EVEN, (), 0, MONDAY + HOUR) is None


def test_an_even_flight_of_two_minutes_is_a_straight_line() -> None:
    terms = {"total": 1_200_000, "start": MONDAY + HOUR, "end": MONDAY + HOUR + 120_000}
    assert [_planned(MONDAY + HOUR + 1_000 * second, **terms) for second in (-5, 0, 30, 60, 120, 500)] == [
        0,
        0,
        300_000,
        600_000,
        1_200_000,
        1_200_000,
    ]
    assert _plan(MONDAY + HOUR, **terms).pace(MONDAY + HOUR + 9_000).rate_micros_second == pytest.approx(10_000)
    assert _plan(MONDAY + HOUR, **terms).pace(MONDAY + HOUR + 120_000).rate_micros_second == 0.0


def test_a_short_flight_across_midnight_goes_on_where_it_was() -> None:
    midnight = MONDAY + DAY
    terms = {"total": 1_200_000, "start": midnight - 60_000, "end": midnight + 60_000}
    assert _planned(midnight - 1, **terms) == pytest.approx(600_000, abs=20)
    assert _planned(midnight + 30_000, before=600_000, **terms) == 900_000
    assert _planned(midnight + 30_000, before=400_000, **terms) == 800_000  # the shortfall is spread over the rest


def test_the_day_and_the_flight_both_bind() -> None:
    noon = MONDAY + 12 * HOUR
    assert _planned(noon, total=700) == 50
    assert _planned(noon, daily=60) == 30
    assert _planned(noon, total=700, daily=60) == 30
    assert _planned(noon, total=700, daily=5_000) == 50
    assert _planned(noon, total=150, end=MONDAY + 36 * HOUR) == 50  # its last day is half a day
    assert _planned(noon, total=350, end=MONDAY + 84 * HOUR) == 50


def test_what_was_left_unspent_is_spread_over_the_rest_of_the_flight() -> None:
    saturday_noon = MONDAY + 5 * DAY + 12 * HOUR
    assert _planned(saturday_noon, total=700, before=500) == 550
    assert _planned(saturday_noon, total=700, before=100) == 100 + 150
    assert _planned(saturday_noon, total=700, before=700) == 700
    assert _planned(saturday_noon, total=700, before=900) == 900  # never less than what is spent already


def test_dayparts_and_weekends_get_their_share() -> None:
    office = tuple(Daypart(weekday=day, start_hour=8, end_hour=18) for day in range(5))
    assert _planned(MONDAY + 7 * HOUR, total=500, dayparts=office) == 0
    assert _planned(MONDAY + 13 * HOUR, total=500, dayparts=office) == 50
    assert _planned(MONDAY + 23 * HOUR, total=500, dayparts=office) == 100
    friday = MONDAY + 4 * DAY
    assert _planned(friday + 13 * HOUR, total=500, dayparts=office, before=400) == 450
    saturday = friday + DAY
    assert _plan(saturday, total=500, dayparts=office, before=480).pace(saturday + HOUR).rate_micros_second == 0.0
    assert _planned(saturday + 20 * HOUR, total=500, dayparts=office, before=480) == 480
    never = (Daypart(weekday=6, start_hour=3, end_hour=4),)
    assert _planned(MONDAY + HOUR, total=500, daily=50, end=MONDAY + DAY, dayparts=never) == 0


def test_the_traffic_curve_shapes_the_day() -> None:
    curve = (0.0,) * 6 + (1.0,) * 12 + (3.0,) * 6
    assert _planned(MONDAY + 6 * HOUR, daily=3_000, curve=curve) == 0
    assert _planned(MONDAY + 18 * HOUR, daily=3_000, curve=curve) == 1_200
    assert _planned(MONDAY + 21 * HOUR, daily=3_000, curve=curve) == 2_100
    half_past = {"start": MONDAY + HOUR // 2, "end": MONDAY + 2 * HOUR, "curve": (1.0, 3.0) * 12}
    assert _planned(MONDAY + HOUR, total=700, **half_past) == 100
    not_yet_one = {"start": MONDAY + HOUR - 1_500, "end": MONDAY + 2 * HOUR, "curve": (0.0, 1.0) * 12}
    assert _planned(MONDAY + HOUR * 3 // 2, total=1_000_000, **not_yet_one) == 500_000
    assert _planned(MONDAY + DAY, total=700, curve=curve) == 0  # Tuesday began: the day's own count starts again
    assert _planned(MONDAY + DAY - 1, total=700, curve=curve) == pytest.approx(100, abs=1)


def test_days_are_the_advertisers() -> None:
    tokyo_noon = int(datetime(2025, 6, 3, 12, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()) * 1_000
    assert _planned(tokyo_noon, daily=240, timezone="Asia/Tokyo") == 120
    assert _planned(tokyo_noon, daily=240, timezone="UTC") == 30
    kathmandu = int(datetime(2025, 6, 3, 0, 30, tzinfo=ZoneInfo("Asia/Kathmandu")).timestamp()) * 1_000
    assert _planned(kathmandu, daily=2_400, timezone="Asia/Kathmandu") == 50
    assert day_number(kathmandu, "Asia/Kathmandu") == day_number(kathmandu, "UTC") + 1
    assert day_number(0, "UTC") == 0
    assert day_number(0, "America/New_York") == -1


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 30, 23), (10, 26, 25), (6, 2, 24)])
def test_days_on_which_clocks_change_spend_their_whole_budget_evenly(month: int, day: int, hours: int) -> None:
    midnight = int(datetime(2025, month, day, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * 1_000
    terms = {"daily": 1_000 * hours, "start": midnight - DAY, "end": midnight + 9 * DAY, "timezone": "Europe/Berlin"}
    assert [_planned(midnight + hour * HOUR, **terms) for hour in range(hours)] == pytest.approx(
        [1_000 * hour for hour in range(hours)], abs=1
    )
    assert _planned(midnight + hours * HOUR, **terms) == 0  # the next day


def test_ahead_is_ahead_and_arrives() -> None:
    terms = {"total": 1_000_000, "start": MONDAY, "end": MONDAY + 100_000, "mode": AHEAD}
    assert _planned(MONDAY + 50_000, **terms) == 625_000
    assert _planned(MONDAY + 100_000, **terms) == 1_000_000
    assert _plan(MONDAY, **terms).pace(MONDAY).rate_micros_second == pytest.approx(15_000)
    assert _plan(MONDAY, **terms).pace(MONDAY + 25_000).rate_micros_second == pytest.approx(12_500)
    assert _plan(MONDAY, **terms).pace(MONDAY + 99_999).rate_micros_second == pytest.approx(5_000, rel=0.01)


@pytest.mark.parametrize("mode", [EVEN, AHEAD])
def test_the_rate_is_what_the_plan_rises_by(mode: PacingMode) -> None:
    today = _plan(MONDAY, daily=10**10, total=5 * 10**10, curve=tuple(map(float, range(24))), mode=mode)
    for hour in range(24):
        now_ms = MONDAY + hour * HOUR + HOUR // 3
        risen = today.planned_micros(now_ms + 1_000) - today.planned_micros(now_ms - 1_000)
        assert today.pace(now_ms).rate_micros_second == pytest.approx(risen / 2, abs=1)


def test_asap_allows_all_of_it_within_the_flight_and_the_day() -> None:
    assert _planned(MONDAY - 1, total=700, mode=ASAP) == 0
    assert _planned(MONDAY + 1, total=700, mode=ASAP) == 700
    assert _planned(MONDAY + 1, total=700, daily=100, mode=ASAP) == 100
    assert _planned(MONDAY + DAY + 1, total=700, daily=100, before=650, mode=ASAP) == 700


def test_a_total_without_an_end_has_nothing_to_last_to() -> None:
    assert _planned(MONDAY + HOUR, total=700, end=None) == 700
    assert _planned(MONDAY + 12 * HOUR, total=700, daily=100, end=None) == 50


def test_absurd_flights_are_planned() -> None:
    assert _planned(MONDAY + DAY, daily=100, start=-(10**15), end=10**17) == 0
    assert _planned(MONDAY + HOUR, total=10**12, start=0, end=10**17) > 0
    assert _planned(MONDAY, total=100, start=MONDAY + DAY, end=MONDAY) == 0


@pytest.mark.parametrize("timezone", ["Pacific/Kiritimati", "Etc/GMT+12"])
@pytest.mark.parametrize("start", [0, TIME_MS_MIN, MONDAY, START_MS_MAX])
def test_every_flight_that_the_catalogue_takes_is_planned(start: int, timezone: str) -> None:
    for end in (None, start + TIME_MS_MIN, TIME_MS_MAX):
        assert _planned(MONDAY, daily=100, total=1_000, start=start, end=end, timezone=timezone) >= 0


@given(
    start=st.integers(-3 * DAY, 3 * DAY),
    length=st.integers(1, 40 * DAY),
    daily=st.none() | st.integers(1, 10**10),
    total=st.none() | st.integers(1, 10**10),
    timezone=st.sampled_from(["UTC", "Australia/Lord_Howe", "America/New_York", "Asia/Kolkata"]),
    mode=st.sampled_from(list(PacingMode)),
    hours=st.lists(st.integers(0, 167), max_size=9),
    before_share=st.floats(0, 1),
)
def test_the_plan_rises_within_its_bounds(
    start: int,
    length: int,
    daily: int | None,
    total: int | None,
    timezone: str,
    mode: PacingMode,
    hours: list[int],
    before_share: float,
) -> None:
    if daily is None and total is None:
        return
    dayparts = tuple(Daypart(weekday=hour // 24, start_hour=hour % 24, end_hour=hour % 24 + 1) for hour in hours)
    before = int((total or 0) * before_share)
    today = _plan(
        MONDAY,
        daily=daily,
        total=total,
        start=MONDAY + start,
        end=MONDAY + start + length,
        dayparts=dayparts,
        timezone=timezone,
        mode=mode,
        before=before,
    )
    # The local day that holds this instant, from its own first edge to its last.
    instants = range(today.day.edges_ms[0] - HOUR, today.day.edges_ms[-1] + HOUR, HOUR // 3)
    amounts = [today.planned_micros(instant) for instant in instants]
    assert all(earlier <= later for earlier, later in pairwise(amounts))
    assert amounts[0] == before
    room = min(limit for limit in (daily, None if total is None else total - before) if limit is not None)
    assert amounts[-1] <= before + room
    for instant, amount in zip(instants, amounts, strict=True):
        pace = today.pace(instant)
        assert pace.planned_micros == amount
        assert pace.rate_micros_second >= 0.0
        assert pace.today_micros == pytest.approx(amount - before, abs=1)
        assert pace.today_micros + pace.rest_micros == pytest.approx(amounts[-1] - before, abs=1)
        assert pace.day_seconds == pytest.approx((today.day.edges_ms[-1] - today.day.edges_ms[0]) / 1_000)


def test_what_is_left_of_today_is_the_smaller_of_what_is_left_of_the_day_and_of_the_whole() -> None:
    assert left_micros(Budget(daily_micros=100), 30, 500) == 70
    assert left_micros(Budget(daily_micros=100, total_micros=520), 30, 500) == 20
    assert left_micros(Budget(total_micros=520), 30, 500) == 20
    assert left_micros(Budget(daily_micros=10, total_micros=520), 30, 500) == 0
    assert left_micros(Budget(), 30, 500) is None
