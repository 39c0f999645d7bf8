"""Kept connections to one server of this machine, straight on epoll, and the requests that go over them."""

import select
import socket

from loadtest.bids.supply import Supply
from loadtest.platform import PlatformError

#: Without any answer for so long the server is taken for dead.
STALL_SECONDS = 10.0
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\nContent-Length: "
_BYTES = 65_536


class Connections:
    """Sockets by their number; `supply` goes on from one round of load to the next, so that none repeats a user."""

    def __init__(self, port: int, connections: int, supply: Supply) -> None:
        self.supply = supply
        self.sockets: dict[int, socket.socket] = {}
        self.silent = f"no answer from port {port} for {STALL_SECONDS:.0f} s"
        self._closed = f"port {port} closed a connection"
        self._sent = 0
        self._partial: dict[int, bytes] = {}
        self._poll = select.epoll()
        self.wait = self._poll.poll
        for _ in range(connections):
            one = _connected(port)
            self.sockets[one.fileno()] = one
            self._poll.register(one.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Close the connections."""
        self._poll.close()
        for one in self.sockets.values():
            one.close()

    def following(self) -> tuple[bytes, int]:
        """Return the next request, and its place in the supply."""
        sent, place = self._sent, self._sent % len(self.supply.parts)
        self._sent += 1
        return self.supply.made(place, sent), place

    def read(self, number: int) -> bytes:
        """Return the answer that has come in on a connection, b"" where it is not all there yet.

        Raises:
            PlatformError: the server closed the connection.
        """
        data = self.sockets[number].recv(_BYTES)
        if not data:
            raise PlatformError(self._closed)
        if number in self._partial:
            data = self._partial.pop(number) + data
        if _is_whole(data):
            return data
        self._partial[number] = data
        return b""


def _connected(port: int) -> socket.socket:
    """Return a connection on which small things are not kept waiting for more."""
    one = socket.create_connection(("127.0.0.1", port), STALL_SECONDS)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def _is_whole(data: bytes) -> bool:
    """Tell whether an answer of our own server is all there; it states a length wherever there is a body."""
    end = data.find(_HEAD_END)
    if end < 0:
        return False
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        return True
    length = data[at + len(_LENGTH) : data.find(b"\r", at + 2)] if end > at else b"0"
    return len(data) - end - len(_HEAD_END) >= int(length)
