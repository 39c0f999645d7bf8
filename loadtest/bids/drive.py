"""The load: a closed loop over kept connections on one thread, straight on epoll.

An event loop with transports and callbacks would cost more a request than the server that is measured, and then the
generator would be what is measured. It tells how much of its own processor it took; see `Round.load_share`.
"""

import socket
import time
from dataclasses import dataclass, field

from loadtest.bids.connections import STALL_SECONDS, Connections
from loadtest.platform import PlatformError
from loadtest.uncollected import uncollected

_MS = 1_000.0
_WARM_UP_SECONDS = 1.0
_WARM_UP_ROUNDS = 4  # leases are asked for about once a second


@dataclass(slots=True)
class Round:
    """What came back in one round of load."""

    seconds: float = 0.0
    bids: int = 0
    refused: int = 0  # answers other than 200 and 204
    late: int = 0  # answers that took longer than the request's tmax
    shed: int = 0  # answers that decided nothing, as the bidder counts them
    load_share: float = 0.0  # of its processor that the generator took: near 1, it is what limits the rate
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Return how many were answered."""
        return len(self.latencies_ms)

    @property
    def decided_per_second(self) -> float:
        """Return the rate of answers but for fast refusals, which cost next to nothing."""
        return (self.requests - self.shed) / self.seconds


class Closed(Connections):
    """Connections that each send the next request as soon as the last one is answered; usable for several rounds."""

    def warm_up(self) -> None:
        """Send until leases, caches and connections are there."""
        for _ in range(_WARM_UP_ROUNDS):
            self.round(_WARM_UP_SECONDS)

    def round(self, seconds: float) -> Round:
        """Send for so long, wait for what is under way, and return what came back.

        Raises:
            PlatformError: the server closed a connection or did not answer for 10 s.
        """
        found = Round()
        with uncollected():
            busy_from, began = time.thread_time(), time.perf_counter()
            self._run(found, began + seconds)
        found.seconds = time.perf_counter() - began
        found.load_share = (time.thread_time() - busy_from) / found.seconds
        return found

    def _run(self, found: Round, until: float) -> None:
        clock, wait, read, sockets, send = time.perf_counter, self.wait, self.read, self.sockets, self._send
        flying: dict[int, tuple[float, int]] = {number: send(one) for number, one in sockets.items()}
        latencies, tmax_ms = found.latencies_ms, self.supply.tmax_ms
        while flying:
            ready = wait(STALL_SECONDS)
            if not ready:
                raise PlatformError(self.silent)
            for number, _ in ready:
                data = read(number)
                if not data:
                    continue
                now = clock()
                began, place = flying.pop(number)
                latency_ms = (now - began) * _MS
                latencies.append(latency_ms)
                if latency_ms > tmax_ms[place]:
                    found.late += 1
                if data.startswith(b"HTTP/1.1 200"):
                    found.bids += 1
                elif not data.startswith(b"HTTP/1.1 204"):
                    found.refused += 1
                if now < until:
                    flying[number] = send(sockets[number])

    def _send(self, one: socket.socket) -> tuple[float, int]:
        data, place = self.following()
        began = time.perf_counter()
        one.sendall(data)
        return began, place
