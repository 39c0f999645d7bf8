"""How many a second are let in."""

from dsp.kernel.clock import NS_PER_SECOND


class TokenBucket:
    """Admits `rate` a second on average, and a burst of one second's worth: who keeps to a quota exceeds it briefly."""

    def __init__(self, rate: float, now_ns: int) -> None:
        self._rate = rate
        self._tokens = rate
        self._at_ns = now_ns

    def take(self, now_ns: int) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._rate, self._tokens + (now_ns - self._at_ns) * self._rate / NS_PER_SECOND)
        self._at_ns = now_ns
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
