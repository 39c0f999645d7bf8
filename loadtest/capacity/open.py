"""The load: an open loop. Requests are due at instants drawn beforehand, whatever becomes of those before them.

Latency counts from the instant a request was due, not from when it could be sent: a server that stalls does not make
its clients ask less, and what they wait for a connection is waiting as well (no coordinated omission).
"""

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from loadtest.bids.connections import STALL_SECONDS, Connections
from loadtest.bids.supply import Supply
from loadtest.platform import PlatformError
from loadtest.truth import percentile, percentiles
from loadtest.uncollected import uncollected

_MS = 1_000.0
#: epoll sleeps whole milliseconds; what is due sooner is waited for awake.
_NAP_SECONDS = 0.002


@dataclass(slots=True)
class Step:
    """What came back at one rate."""

    rate: float  # offered, requests per second
    seconds: float = 0.0
    bids: int = 0
    refused: int = 0  # answers other than 200 and 204
    late: int = 0  # answers that took longer than the request's tmax
    shed: int = 0  # answers that decided nothing, as the bidder counts them
    lags_ms: list[float] = field(default_factory=list)  # the generator's own: due, a connection free, and not sent
    latencies_ms: list[float] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        """Return rates, quantiles in milliseconds, and how much of the delay was the generator's own."""
        return {
            "rate": round(self.rate, 1),
            "answered": round(len(self.latencies_ms) / self.seconds, 1),
            **percentiles(self.latencies_ms, "p50", "p90", "p99", "p999", digits=3),
            "late": self.late,
            "refused": self.refused,
            "lag_p99": round(percentile(self.lags_ms, 0.99), 3),
        }


class Open(Connections):
    """Kept connections over which requests are sent at their time; usable for several steps."""

    def __init__(self, port: int, connections: int, supply: Supply, seed: int = 1) -> None:
        super().__init__(port, connections, supply)
        self._random = np.random.default_rng(seed)

    def step(self, rate: float, seconds: float) -> Step:
        """Offer Poisson arrivals at a rate for so long, wait for all answers, and return what came back.

        Raises:
            PlatformError: the server closed a connection or did not answer for 10 s.
        """
        gaps = self._random.exponential(1.0 / rate, int(rate * seconds * 1.2) + 20)
        due = np.cumsum(gaps)
        found = Step(rate)
        with uncollected():
            began = time.perf_counter()
            self._run(found, (began + due[due < seconds]).tolist())
        found.seconds = max(seconds, time.perf_counter() - began)
        return found

    def _run(self, found: Step, due: list[float]) -> None:
        clock, wait, sockets, tmax_ms = time.perf_counter, self.wait, self.sockets, self.supply.tmax_ms
        latencies, lags = found.latencies_ms, found.lags_ms
        idle, flying = deque(sockets), dict[int, tuple[float, int]]()
        following, count, freed, heard = 0, len(due), 0.0, clock()
        while following < count or flying:
            now = clock()
            while following < count and idle and due[following] <= now:
                number, at = idle.popleft(), due[following]
                data, place = self.following()
                sockets[number].sendall(data)
                flying[number] = (at, place)
                lags.append((now - max(at, freed)) * _MS)
                following += 1
                now = clock()
            waits = due[following] - now if following < count and idle else STALL_SECONDS
            ready = wait(0 if waits < _NAP_SECONDS else waits - _NAP_SECONDS / 2)
            now = clock()
            if not ready and flying and now - heard > STALL_SECONDS:
                raise PlatformError(self.silent)
            heard = now if ready or not flying else heard
            for number, _ in ready:
                data = self.read(number)
                if not data:
                    continue
                freed = clock() if not idle else freed
                at, place = flying.pop(number)
                idle.append(number)
                latency_ms = (clock() - at) * _MS
                latencies.append(latency_ms)
                found.late += latency_ms > tmax_ms[place]
                found.bids += data.startswith(b"HTTP/1.1 200")
                found.refused += not data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204"))
