"""When line items run: flights to the millisecond, dayparts and day numbers in each advertiser's time zone."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.terms import Daypart
from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words

_HOURS_PER_DAY = 24
_HOURS_PER_WEEK = 7 * _HOURS_PER_DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: 1970-01-01 was a Thursday; Monday is 0.
_EPOCH_WEEKDAY = 3


class Calendar:
    """Bitmaps of the line items in flight and in their dayparts, remembered until one of them can change.

    Results depend on `now_ms` alone; what is remembered is swapped as one tuple, so threads may share a calendar.
    """

    def __init__(
        self,
        flight_start_ms: NDArray[np.int64],
        flight_end_ms: NDArray[np.int64],
        dayparts: Sequence[Sequence[Daypart]],
        timezones: Sequence[str],
    ) -> None:
        size = flight_start_ms.shape[0]
        self._start_ms, self._end_ms = flight_start_ms, flight_end_ms
        self._boundaries_ms = np.unique(np.concatenate([flight_start_ms, flight_end_ms]))
        names = sorted(set(timezones))
        self._zones = [ZoneInfo(name) for name in names]
        numbers = {name: number for number, name in enumerate(names)}
        self._zone_of_row = np.array([numbers[name] for name in timezones], dtype=np.int64)
        self._zone_rows = [bitmap.from_mask(self._zone_of_row == number) for number in range(len(names))]
        self._hour_rows = _hour_rows(dayparts, size)
        self._nothing = bitmap.zeros(size)
        self._flight_memo: tuple[int, int, Words] = (0, 0, self._nothing)  # from, until, rows
        self._minute_memo: tuple[int, Words, NDArray[np.int64]] = (-1, self._nothing, self._zone_of_row)

    def in_flight(self, now_ms: int) -> Words:
        """Return the line items whose flight and whose campaign's flight run; exact at every boundary."""
        begin_ms, until_ms, rows = self._flight_memo
        if begin_ms <= now_ms < until_ms:
            return rows
        after = int(np.searchsorted(self._boundaries_ms, now_ms, side="right"))
        begin_ms = int(self._boundaries_ms[after - 1]) if after else -(2**63)
        until_ms = int(self._boundaries_ms[after]) if after < self._boundaries_ms.shape[0] else 2**63
        rows = bitmap.from_mask((self._start_ms <= now_ms) & (now_ms < self._end_ms))
        self._flight_memo = (begin_ms, until_ms, rows)
        return rows

    def in_daypart(self, now_ms: int) -> Words:
        """Return the line items whose dayparts hold the local hour, or that have none."""
        return self._minute(now_ms)[1]

    def days(self, now_ms: int) -> NDArray[np.int64]:
        """Return each line item's day in its advertiser's time zone, as days since 1970-01-01; int64 (N,)."""
        return self._minute(now_ms)[2]

    def _minute(self, now_ms: int) -> tuple[int, Words, NDArray[np.int64]]:
        # UTC offsets are whole minutes since long before any flight, so local hours change on a minute.
        minute = now_ms // MS_PER_MINUTE
        memo = self._minute_memo
        if memo[0] != minute:
            memo = self._minute_memo = (minute, *self._at(now_ms))
        return memo

    def _at(self, now_ms: int) -> tuple[Words, NDArray[np.int64]]:
        local_ms = [now_ms + _offset_ms(zone, now_ms) for zone in self._zones]
        days = np.array([ms // MS_PER_DAY for ms in local_ms], dtype=np.int64)
        rows = self._nothing
        for zone_row, ms in zip(self._zone_rows, local_ms, strict=True):
            rows = rows | (zone_row & self._hour_rows[_hour_of_week(ms)])
        return rows, days[self._zone_of_row]


def _offset_ms(zone: ZoneInfo, now_ms: int) -> int:
    offset = (_EPOCH + timedelta(milliseconds=now_ms)).astimezone(zone).utcoffset()
    return int(offset.total_seconds() * 1_000) if offset is not None else 0


def _hour_of_week(local_ms: int) -> int:
    return (local_ms // MS_PER_HOUR + _EPOCH_WEEKDAY * _HOURS_PER_DAY) % _HOURS_PER_WEEK


def _hour_rows(dayparts: Sequence[Sequence[Daypart]], size: int) -> list[Words]:
    open_hours = np.ones((_HOURS_PER_WEEK, size), dtype=np.bool_)
    for row, parts in enumerate(dayparts):
        if parts:
            open_hours[:, row] = False
        for part in parts:
            first = part.weekday * _HOURS_PER_DAY
            open_hours[first + part.start_hour : first + part.end_hour, row] = True
    return [bitmap.from_mask(hours) for hours in open_hours]
