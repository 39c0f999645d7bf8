"""Who may enter the auction: the in-flight bound, each exchange's agreed rate, and the time left.

Being refused is a value; towards the exchange it is a fast 204, never 429 or 503.
"""

from collections.abc import Mapping

from dsp.catalog.reasons import Exclusion
from dsp.kernel import metrics
from dsp.openrtb.profile import Profile

NS_PER_SECOND = 1_000_000_000


class TokenBucket:
    """Admits `rate` a second on average, and a burst of one second's worth (exchanges exceed their quota briefly)."""

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


class Admission:
    """Counts requests in flight and holds the exchanges' token buckets."""

    def __init__(
        self, profiles: Mapping[str, Profile], inflight_max: int, time_left_ms_min: float, now_ns: int
    ) -> None:
        self.inflight = 0
        self._inflight_max = inflight_max
        self._time_left_ms_min = time_left_ms_min
        self._buckets = {
            name: TokenBucket(profile.qps_max, now_ns) for name, profile in profiles.items() if profile.qps_max > 0
        }
        metrics.INFLIGHT_MAX.set(inflight_max)

    def enter(self, exchange: str, now_ns: int) -> Exclusion | None:
        """Count a request in; a reason means that it must be answered at once. Pair every call with `leave`."""
        self.inflight += 1
        if self.inflight > self._inflight_max:
            return Exclusion.OVERLOAD
        bucket = self._buckets.get(exchange)
        if bucket is not None and not bucket.take(now_ns):
            return Exclusion.RATE_LIMITED
        return None

    def leave(self) -> None:
        """Count a request out."""
        self.inflight -= 1

    def time_short(self, left_ms: float) -> bool:
        """Return whether too little time is left to run an auction."""
        return left_ms < self._time_left_ms_min
