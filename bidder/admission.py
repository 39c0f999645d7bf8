"""Who may enter the auction: the in-flight bound, how long requests wait, each exchange's agreed rate, the time left,
and whether what is won could be recorded.

Being refused is a value; towards the exchange it is a fast 204, never 429 or 503.
"""

from collections.abc import Callable, Mapping

from dsp.catalog.reasons import Exclusion
from dsp.kernel import metrics
from dsp.kernel.rate import TokenBucket
from dsp.openrtb.profile import Profile

#: Longer waits are overload once they have gone on for so long. Before that they are a stall, which passes.
QUEUE_NS_MAX = 40_000_000
STANDING_NS = 100_000_000
#: And overload is over when nothing has waited that long for so long.
CALM_NS = 500_000_000
#: Under overload so much of each turn of the event loop is work, and who waits in it for longer is refused. First come,
#: first served would answer all at the last moment, and then too late; and this way there is always some work. What is
#: sent meanwhile is read at the turn's end, and has waited for it: short turns cost no goodput, and save that time.
WORK_NS_MAX = 10_000_000
#: Short turns do not show whether there is still too much to do. So long after a wait that did they may be long again.
SHORT_NS = 250_000_000


class Queue:
    """Tells overload from a stall, as CoDel does (RFC 8289): by whether waiting has gone on for a while."""

    def __init__(self) -> None:
        self._since_ns = self._latest_ns = -CALM_NS

    def overdue(self, arrived_ns: int, now_ns: int) -> bool:
        """Return whether a request has waited for too long, and is not the first to."""
        waited_ns = now_ns - arrived_ns
        if waited_ns <= WORK_NS_MAX:
            return False
        calm_ns = now_ns - self._latest_ns
        if waited_ns <= QUEUE_NS_MAX:
            return calm_ns <= SHORT_NS and self._latest_ns - self._since_ns > STANDING_NS
        if calm_ns > CALM_NS:
            self._since_ns = now_ns
        self._latest_ns = now_ns
        return now_ns - self._since_ns > STANDING_NS


class Admission:
    """Counts requests in flight and holds the exchanges' token buckets; `recording` tells if notices are taken."""

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        inflight_max: int,
        time_left_ms_min: float,
        now_ns: int,
        recording: Callable[[], bool],
    ) -> None:
        self.inflight = self._most = 0
        self._queue = Queue()
        self._inflight_max = inflight_max
        self._time_left_ms_min = time_left_ms_min
        self._recording = recording
        self._buckets = {
            name: TokenBucket(profile.qps_max, now_ns) for name, profile in profiles.items() if profile.qps_max > 0
        }
        metrics.INFLIGHT_MAX.set(inflight_max)

    def enter(self, exchange: str, arrived_ns: int, now_ns: int) -> Exclusion | None:
        """Count a request in; a reason means that it must be answered at once. Pair every call with `leave`."""
        self.inflight += 1
        if self.inflight > self._most:
            self._most = self.inflight
        if not self._recording():
            return Exclusion.LOG_AWAY
        waited = now_ns - arrived_ns > WORK_NS_MAX
        if self.inflight > self._inflight_max or (waited and self._queue.overdue(arrived_ns, now_ns)):
            return Exclusion.OVERLOAD
        bucket = self._buckets.get(exchange)
        if bucket is not None and not bucket.take(now_ns):
            return Exclusion.RATE_LIMITED
        return None

    def leave(self) -> None:
        """Count a request out."""
        self.inflight -= 1

    def most(self) -> int:
        """Return how many requests at most were in flight at once since this was asked before.

        Whoever asks for the number of now runs between turns of the loop, when hardly ever one is in flight.
        """
        most, self._most = self._most, self.inflight
        return most

    def time_short(self, left_ms: float) -> bool:
        """Return whether too little time is left to run an auction."""
        return left_ms < self._time_left_ms_min
