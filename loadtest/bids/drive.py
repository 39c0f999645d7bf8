"""The load: a closed loop over kept connections on one thread, straight on epoll.

An event loop with transports and callbacks would cost more a request than the server that is measured, and then the
generator would be what is measured. It tells how much of its own processor it took; see `Round.load_share`.
"""

import gc
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.bids.supply import Supply
from loadtest.platform import PlatformError

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\nContent-Length: "
_BYTES = 65_536
_STALL_SECONDS = 10.0
_MS = 1_000.0


@dataclass(slots=True)
class Round:
    """What came back in one round of load."""

    seconds: float = 0.0
    bids: int = 0
    refused: int = 0  # answers other than 200 and 204
    late: int = 0  # answers that took longer than the request's tmax
    load_share: float = 0.0  # of its processor that the generator took: near 1, it is what limits the rate
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Return how many were answered."""
        return len(self.latencies_ms)


class Closed:
    """Connections that each send the next request as soon as the last one is answered; usable for several rounds."""

    def __init__(self, port: int, connections: int, supply: Supply) -> None:
        self._supply = supply
        self._sent = 0  # goes on from round to round, so that no round repeats another's users
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

    def round(self, seconds: float) -> Round:
        """Send for so long, wait for what is under way, and return what came back.

        Raises:
            PlatformError: the server closed a connection or did not answer for 10 s.
        """
        found = Round()
        gc.disable()
        busy_from, began = time.thread_time(), time.perf_counter()
        try:
            self._run(found, began + seconds)
        finally:
            gc.enable()
        found.seconds = time.perf_counter() - began
        found.load_share = (time.thread_time() - busy_from) / found.seconds
        return found

    def _run(self, found: Round, until: float) -> None:
        clock, poll, sockets, send = time.perf_counter, self._poll.poll, self._sockets, self._send
        flying: dict[int, tuple[float, int]] = {number: send(one) for number, one in sockets.items()}
        partial: dict[int, bytes] = {}
        latencies, tmax_ms = found.latencies_ms, self._supply.tmax_ms
        while flying:
            ready = poll(_STALL_SECONDS)
            if not ready:
                raise PlatformError(f"no answer from port {self._port} for {_STALL_SECONDS:.0f} s")
            for number, _ in ready:
                data = sockets[number].recv(_BYTES)
                if not data:
                    raise PlatformError(f"port {self._port} closed a connection")
                if number in partial:
                    data = partial.pop(number) + data
                if not is_whole(data):
                    partial[number] = data
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
        place = self._sent % len(self._supply.parts)
        data = self._supply.made(place, self._sent)
        self._sent += 1
        began = time.perf_counter()
        one.sendall(data)
        return began, place


def connected(port: int) -> socket.socket:
    """Return a connection to a server of this machine, on which small things are not kept waiting for more."""
    one = socket.create_connection(("127.0.0.1", port), _STALL_SECONDS)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def is_whole(data: bytes) -> bool:
    """Tell whether an answer of our own server is all there; it states a length wherever there is a body."""
    end = data.find(_HEAD_END)
    if end < 0:
        return False
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        return True
    length = data[at + len(_LENGTH) : data.find(b"\r", at + 2)] if end > at else b"0"
    return len(data) - end - len(_HEAD_END) >= int(length)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of an ascending sequence do not exceed; 0 of an empty one."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
