"""What the calendar remembers never outlives its truth, whichever way time goes."""

from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import numpy as np

from dsp.catalog.terms import Daypart
from dsp.targeting import bitmap
from dsp.targeting.calendar import Calendar

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati")
BEGIN_MS = 1_741_500_000_000  # 2025-03-09 06:00 UTC, an hour before New York turns its clocks forward


def local(now_ms: int, zone: str) -> datetime:
    return (EPOCH + timedelta(milliseconds=now_ms)).astimezone(ZoneInfo(zone))


def test_one_calendar_over_many_instants() -> None:
    random = Random(1)
    size = 90
    starts = np.array([BEGIN_MS + random.randint(-3, 3) * 3_600_000 for _ in range(size)])
    ends = starts + np.array([random.choice((1, 59_999, 3_600_000, 10**12)) for _ in range(size)])
    zones = [random.choice(ZONES) for _ in range(size)]
    dayparts = [
        [Daypart(weekday=random.randint(0, 6), start_hour=hour, end_hour=random.randint(hour + 1, 24))]
        if (hour := random.randint(0, 23)) % 3
        else []
        for _ in range(size)
    ]
    calendar = Calendar(starts, ends, dayparts, zones)
    boundaries = [int(edge) + shift for edge in (*starts, *ends[:20]) for shift in (-1, 0, 1)]
    instants = [*boundaries, *(BEGIN_MS + random.randint(-(10**9), 10**9) for _ in range(500))]
    random.shuffle(instants)
    for now_ms in [*instants, *sorted(instants)]:
        running = ((starts <= now_ms) & (now_ms < ends)).nonzero()[0]
        assert bitmap.positions(calendar.in_flight(now_ms)).tolist() == running.tolist()
        times = [local(now_ms, zone) for zone in zones]
        open_rows = [
            row
            for row, (time, parts) in enumerate(zip(times, dayparts, strict=True))
            if not parts
            or any(part.weekday == time.weekday() and part.start_hour <= time.hour < part.end_hour for part in parts)
        ]
        assert bitmap.positions(calendar.in_daypart(now_ms)).tolist() == open_rows
        assert calendar.days(now_ms).tolist() == [(time.date() - EPOCH.date()).days for time in times]


def test_a_present_that_stays_is_remembered() -> None:
    calendar = Calendar(np.array([0]), np.array([10**15]), [[]], ["UTC"])
    assert calendar.in_flight(BEGIN_MS) is calendar.in_flight(BEGIN_MS + 10**9)
    assert calendar.in_daypart(BEGIN_MS) is calendar.in_daypart(BEGIN_MS + 1)
