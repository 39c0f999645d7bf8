"""The load: an open loop. Requests are due at instants drawn beforehand, whatever becomes of those before them.

Latency counts from the instant a request was due, not from when it could be sent: a server that stalls does not make
its clients ask less, and what they wait for a connection is waiting as well (no coordinated omission).
"""

import gc
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from loadtest.bids.drive import connected, is_whole, quantile
from loadtest.bids.supply import Supply
from loadtest.platform import PlatformError

_BYTES = 65_536
_STALL_SECONDS = 10.0
_MS = 1_000.0
#: epoll sleeps whole milliseconds; what is due sooner is waited for awake.
_NAP_SECONDS = 0.002
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


@dataclass(slots=True)
class Step:
    """What came back at one rate."""

    rate: float  # offered, requests per second
    seconds: float = 0.0
    bids: int = 0
    refused: int = 0  # answers other than 200 and 204
    late: int = 0  # answers that took longer than the request's tmax
    lags_ms: list[float] = field(default_factory=list)  # the generator's own: due, a connection free, and not sent
    latencies_ms: list[float] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        """Return rates, quantiles in milliseconds, and how much of the delay was the generator's own."""
        ordered, lags = sorted(self.latencies_ms), sorted(self.lags_ms)
        return {
            "rate": round(self.rate, 1),
            "answered": round(len(ordered) / self.seconds, 1),
            **{name: round(quantile(ordered, share), 3) for name, share in _QUANTILES.items()},
            "late": self.late,
            "refused": self.refused,
            "lag_p99": round(quantile(lags, 0.99), 3),
        }


class Open:
    """Kept connections over which requests are sent at their time; usable for several steps."""

    def __init__(self, port: int, connections: int, supply: Supply, seed: int = 1) -> None:
        self._supply = supply
        self._random = np.random.default_rng(seed)
        self._sent = 0
        self._port = port
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        for _ in range(connections):
            one = connected(port)
            self._sockets[one.fileno()] = one
            self._poll.register(one.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Close the connections."""
        self._poll.close()
        for one in self._sockets.values():
            one.close()

    def step(self, rate: float, seconds: float) -> Step:
        """Offer Poisson arrivals at a rate for so long, wait for all answers, and return what came back.

        Raises:
            PlatformError: the server closed a connection or did not answer for 10 s.
        """
        gaps = self._random.exponential(1.0 / rate, int(rate * seconds * 1.2) + 20)
        due = np.cumsum(gaps)
        found = Step(rate)
        gc.disable()
        began = time.perf_counter()
        try:
            self._run(found, (began + due[due < seconds]).tolist())
        finally:
            gc.enable()
        found.seconds = max(seconds, time.perf_counter() - began)
        return found

    def _run(self, found: Step, due: list[float]) -> None:
        clock, poll, sockets = time.perf_counter, self._poll.poll, self._sockets
        supply, tmax_ms, places = self._supply, self._supply.tmax_ms, len(self._supply.parts)
        latencies, lags = found.latencies_ms, found.lags_ms
        idle, flying, partial = deque(sockets), dict[int, tuple[float, int]](), dict[int, bytes]()
        following, count, freed, heard = 0, len(due), 0.0, clock()
        while following < count or flying:
            now = clock()
            while following < count and idle and due[following] <= now:
                number, place, at = idle.popleft(), self._sent % places, due[following]
                sockets[number].sendall(supply.made(place, self._sent))
                flying[number] = (at, place)
                lags.append((now - max(at, freed)) * _MS)
                self._sent += 1
                following += 1
                now = clock()
            waits = due[following] - now if following < count and idle else _STALL_SECONDS
            ready = poll(0 if waits < _NAP_SECONDS else waits - _NAP_SECONDS / 2)
            now = clock()
            if not ready and flying and now - heard > _STALL_SECONDS:
                raise PlatformError(f"no answer from port {self._port} for {_STALL_SECONDS:.0f} s")
            heard = now if ready or not flying else heard
            for number, _ in ready:
                data = sockets[number].recv(_BYTES)
                if not data:
                    raise PlatformError(f"port {self._port} closed a connection")
                data = partial.pop(number, b"") + data
                if not is_whole(data):
                    partial[number] = data
                    continue
                freed = clock() if not idle else freed
                at, place = flying.pop(number)
                idle.append(number)
                latency_ms = (clock() - at) * _MS
                latencies.append(latency_ms)
                found.late += latency_ms > tmax_ms[place]
                found.bids += data.startswith(b"HTTP/1.1 200")
                found.refused += not data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204"))
