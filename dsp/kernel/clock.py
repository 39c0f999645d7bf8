"""Time as an explicit dependency: wall time in milliseconds, elapsed time in nanoseconds."""

import time
from dataclasses import dataclass
from typing import Protocol
from zoneinfo import ZoneInfo

import msgspec

NS_PER_MS = 1_000_000
MS_PER_SECOND = 1_000
NS_PER_SECOND = NS_PER_MS * MS_PER_SECOND
MS_PER_MINUTE = 60 * MS_PER_SECOND
MS_PER_HOUR = 60 * MS_PER_MINUTE
MS_PER_DAY = 24 * MS_PER_HOUR


def knows_timezone(name: str) -> bool:
    """Tell whether this machine knows a time zone: zones come and go, and another host may have taken this one."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown, a directory's name, a path
        return False
    return True


class Clock(Protocol):
    """What a component may know of time."""

    def now_ms(self) -> int:
        """Return the wall time, milliseconds since the Unix epoch, UTC."""
        ...

    def elapsed_ns(self) -> int:
        """Return a monotonic reading in nanoseconds; only differences mean anything."""
        ...


def monotonic_ms(clock: Clock) -> int:
    """Return a clock's monotonic reading in milliseconds."""
    return clock.elapsed_ns() // NS_PER_MS


class SystemClock:
    """The machine's clock."""

    #: The auction reads it at every stage, so there is nothing between.
    elapsed_ns = staticmethod(time.perf_counter_ns)

    def now_ms(self) -> int:
        return time.time_ns() // NS_PER_MS


@dataclass(slots=True)
class ManualClock:
    """A clock that moves only when told to: for tests, replay and simulation."""

    at_ms: int = 1_750_000_000_000
    stepped_ms: int = 0

    def now_ms(self) -> int:
        return self.at_ms

    def elapsed_ns(self) -> int:
        return (self.at_ms - self.stepped_ms) * NS_PER_MS

    def advance(self, ms: int) -> None:
        """Move the clock forward by `ms` milliseconds."""
        self.at_ms += ms

    def step(self, ms: int) -> None:
        """Set the wall time forward or back, as NTP or a person does, while no time passes."""
        self.at_ms += ms
        self.stepped_ms += ms


class Deadline(msgspec.Struct, frozen=True, gc=False):
    """An instant on the monotonic clock by which an answer must have left."""

    at_ns: int

    @classmethod
    def after_ms(cls, arrived_ns: int, budget_ms: float) -> "Deadline":
        """Return the deadline `budget_ms` after the arrival reading `arrived_ns`."""
        return cls(arrived_ns + int(budget_ms * NS_PER_MS))

    def left_ms(self, now_ns: int) -> float:
        """Return the milliseconds left at the reading `now_ns`; negative once it has passed."""
        return (self.at_ns - now_ns) / NS_PER_MS
