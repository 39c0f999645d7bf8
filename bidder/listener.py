"""One port: accepts connections, handles in batches what they say, and closes them in order at the end."""

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from heapq import nsmallest
from typing import cast

from bidder.cohort import Cohort
from bidder.connection import Connection, Handler

BACKLOG = 1_024
#: More than this is not kept waiting.
GATHERED_BYTES_MAX = 4_194_304
_POLL_SECONDS = 0.01
#: At the bound so large a part of the connections makes room at once: to look for the longest idle costs a look at all.
ROOM_PART = 16


class Listener:
    """Serves one port with one handler; `broken` is called for what is not even HTTP.

    An event loop takes up all that is there at once and hands it out piece by piece. All of it is read before any is
    parsed, so that a request knows since when it has waited for those before it, and all is parsed before any is
    answered: the same work in a row costs less. An overloaded process has to know what has waited (bidder.admission).
    What came while the loop was busy with the turn before may have waited for up to that turn as well; that is not
    counted, and short where turns are kept short.

    With `gather_seconds` batches are larger: where an answer has to wait for the disk anyway, the waiting may as well
    come first, as many requests in a row cost far less than each by itself, woken up for.

    Of `connections_max` those that have been idle the longest make room for others. Where none is idle, who comes is
    not taken: strangers must not use up the files that the process needs for its own work.
    """

    def __init__(
        self,
        handler: Handler,
        broken: Callable[[], None],
        body_bytes_max: int,
        keepalive_seconds: float,
        request_seconds_max: float,
        gather_seconds: float = 0.0,
        cohort: Cohort | None = None,
        connections_max: int = 4_096,
    ) -> None:
        self.handler = handler
        self.broken = broken
        self.body_bytes_max = body_bytes_max
        self.keepalive_seconds = keepalive_seconds
        self.request_seconds_max = request_seconds_max
        self.connections: set[Connection] = set()
        self.cohort = cohort or Cohort()
        self.port = 0
        self.crowded_out = 0  # connections closed, or not taken, for want of room, since somebody set this to 0
        self._connections_max = connections_max
        self._loop = asyncio.get_running_loop()
        self._gather_seconds = gather_seconds
        self._gathered: list[tuple[Connection, bytes]] = []
        self._gathered_bytes = 0
        self._due: asyncio.Handle | None = None  # when what was gathered is fed
        self._server: asyncio.Server | None = None
        self._door: socket.socket | None = None  # the server's own socket once more, to outlive the server

    async def listen(self, host: str, port: int, reuse_port: bool) -> None:
        """Open the port; `self.port` then tells which it is."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=reuse_port)
        found.setblocking(False)
        self.port = found.getsockname()[1]
        self._door = found.dup()
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=found)

    def gather(self, connection: Connection, data: bytes) -> None:
        """Take what came in, to be parsed and answered at the end of the loop's turn or within `gather_seconds`."""
        self._gathered.append((connection, data))
        self._gathered_bytes += len(data)
        if self._due is None:
            loop, seconds = self._loop, self._gather_seconds
            self._due = loop.call_later(seconds, self.feed) if seconds else loop.call_soon(self.feed)
        if self._gathered_bytes > GATHERED_BYTES_MAX:
            self.feed()

    def feed(self) -> None:
        """Have what was gathered parsed and answered now."""
        if self._due is None:
            return
        self._due.cancel()
        self._due = None
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        for connection, data in gathered:
            connection.parse(data)
        for connection, _ in gathered:
            connection.answer()
        self.cohort.run()

    async def close(self, timeout_s: float) -> None:
        """Accept nothing more, answer what is in flight for at most `timeout_s`, and close every connection.

        Whoever has connected by then is answered too: the kernel would refuse them when the port closes.
        """
        server, door, self._server = self._server, self._door, None
        if server is None or door is None:
            return
        server.close()
        await self._admit_last(door)
        self.feed()
        for connection in list(self.connections):
            connection.finish()
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while self.connections and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(_POLL_SECONDS)
        for connection in list(self.connections):
            connection.abort()
        await server.wait_closed()

    async def _admit_last(self, door: socket.socket) -> None:
        last = []
        with suppress(BlockingIOError):
            while True:
                last.append(door.accept()[0])
        door.close()
        for client in last:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, client)

    def _connection(self) -> asyncio.Protocol:
        if len(self.connections) >= self._connections_max and not self._make_room():
            self.crowded_out += 1
            return _TurnedAway()
        return Connection(self, self._loop)

    def _make_room(self) -> bool:
        self.feed()  # who has asked something is not idle
        longest_idle = nsmallest(
            max(1, self._connections_max // ROOM_PART), self.connections, key=lambda one: one.idle_since
        )
        idle = [one for one in longest_idle if one.idle_since < math.inf]
        for connection in idle:
            self.connections.discard(connection)  # it closes a moment later
            connection.close_idle()
        self.crowded_out += len(idle)
        return bool(idle)


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()
