"""When a record was appended: the stamps of a topic never go back, and never stand still for long."""

from dsp.kernel.clock import Clock, monotonic_ms


class Stamp:
    """One writer's or reader's view of a topic's time. The floor of the topic is shared; this remembers how old it is.

    A clock that is set back by minutes would otherwise hold the watermark, and with it all reserved money, for minutes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ms: int | None = None  # of the monotonic clock, by all floors seen

    def next_ms(self, floor_ms: int) -> int:
        """Return the stamp of what is appended now on top of `floor_ms`, which is the next floor."""
        elapsed_ms = monotonic_ms(self._clock)
        now_ms = max(self._clock.now_ms(), floor_ms)
        if self._ahead_ms is not None:
            now_ms = max(now_ms, self._ahead_ms + elapsed_ms)
        self._ahead_ms = now_ms - elapsed_ms
        return now_ms
