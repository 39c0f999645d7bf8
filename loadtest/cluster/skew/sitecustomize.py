"""Sets this process's wall clock ahead by the seconds that a file says.

Python runs this at the start of every process that finds it on its path (loadtest.cluster.clock). It changes what the
platform reads of the wall clock, `time.time` and `time.time_ns`, and no more. libfaketime, which changes it for all,
breaks timed waits on the monotonic clock: threads that wait for the interpreter's lock then spin, `time.sleep` fails,
and the event loop stands for tenths of a second.
"""

import os
import time

CLOCK_FILE = "DRILL_CLOCK_FILE"
_LOOK_SECONDS = 0.5
_NS_PER_SECOND = 1_000_000_000


class _Skew:
    """How far the clock is ahead: looked up at most twice a second."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._real_ns = time.time_ns
        self._ahead_ns = 0
        self._look_at = 0.0

    def time_ns(self) -> int:
        """Stand in for time.time_ns."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            with open(self._path, encoding="ascii") as file:
                self._ahead_ns = int(file.read()) * _NS_PER_SECOND
        return self._real_ns() + self._ahead_ns

    def time(self) -> float:
        """Stand in for time.time."""
        return self.time_ns() / _NS_PER_SECOND


if CLOCK_FILE in os.environ:
    _skew = _Skew(os.environ[CLOCK_FILE])
    time.time, time.time_ns = _skew.time, _skew.time_ns
