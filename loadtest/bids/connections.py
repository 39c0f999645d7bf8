"""Kept connections to one server of this machine, straight on epoll, and the requests that go over them."""

import os
import select
import socket

from loadtest.bids.supply import Supply
from loadtest.platform import PlatformError

#: Without any answer for so long the server is taken for dead.
STALL_SECONDS = 10.0
_CRLF = b"\r\n"
_HEAD_END = _CRLF + _CRLF
_LENGTH = b"\r\nContent-Length: "
_CLOSE = b"\r\nConnection: close\r\n"
_BYTES = 65_536


class Connections:
    """Sockets by their number; `supply` goes on from one round of load to the next, so that none repeats a user."""

    def __init__(self, port: int, connections: int, supply: Supply) -> None:
        self.supply = supply
        self.sockets: dict[int, socket.socket] = {}
        self.silent = f"no answer from port {port} for {STALL_SECONDS:.0f} s"
        self._closed = f"port {port} closed a connection"
        self._port = port
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

        After an answer that says so the server closes, and the number is that of another connection (RFC 9112, 9.6).

        Raises:
            OSError: the server could not be reached again.
            PlatformError: it closed the connection without a word.
        """
        try:
            data = self.sockets[number].recv(_BYTES)
        except ConnectionResetError as fault:
            raise PlatformError(self._closed) from fault
        if not data:
            raise PlatformError(self._closed)
        if number in self._partial:
            data = self._partial.pop(number) + data
        end = _whole(data)
        if not end:
            self._partial[number] = data
            return b""
        if data.find(_CLOSE, 0, end) >= 0:
            self._renew(number)
        return data

    def _renew(self, number: int) -> None:
        """Connect anew under the same number: nothing is under way on the old connection, which this closes."""
        with _connected(self._port) as one:
            os.dup2(one.fileno(), number, inheritable=False)
        self._poll.register(number, select.EPOLLIN)


def _connected(port: int) -> socket.socket:
    """Return a connection on which small things are not kept waiting for more."""
    one = socket.create_connection(("127.0.0.1", port), STALL_SECONDS)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def _whole(data: bytes) -> int:
    """Return where the head of a whole answer of our own server ends, 0 where it is not all there yet.

    Such a server states a length wherever there is a body.
    """
    end = data.find(_HEAD_END) + len(_CRLF)
    if end < len(_HEAD_END):
        return 0
    at = data.find(_LENGTH, 0, end)
    length = int(data[at + len(_LENGTH) : data.find(_CRLF, at + len(_LENGTH))]) if at >= 0 else 0
    return end if len(data) - end - len(_CRLF) >= length else 0
