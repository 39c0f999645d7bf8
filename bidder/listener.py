"""One port: accepts connections, feeds them at once or in batches, and closes them in order at the end."""

import asyncio
from collections.abc import Callable

from bidder.connection import Connection, Handler

BACKLOG = 1_024
#: More than this is not kept waiting.
GATHERED_BYTES_MAX = 262_144
_POLL_SECONDS = 0.01


class Listener:
    """Serves one port with one handler; `broken` is called for what is not even HTTP.

    With `gather_seconds` what arrives is handled in batches: where an answer has to wait for the disk anyway, the
    waiting may as well come first, as many requests in a row cost far less than each by itself, woken up for.
    """

    def __init__(
        self,
        handler: Handler,
        broken: Callable[[], None],
        body_bytes_max: int,
        keepalive_seconds: float,
        request_seconds_max: float,
        gather_seconds: float = 0.0,
    ) -> None:
        self.handler = handler
        self.broken = broken
        self.body_bytes_max = body_bytes_max
        self.keepalive_seconds = keepalive_seconds
        self.request_seconds_max = request_seconds_max
        self.connections: set[Connection] = set()
        self.port = 0
        self._gather_seconds = gather_seconds
        self._gathered: list[tuple[Connection, bytes]] = []
        self._gathered_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int, reuse_port: bool) -> None:
        """Open the port; `self.port` then tells which it is."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self, loop), host, port, reuse_port=reuse_port or None, backlog=BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def gather(self, connection: Connection, data: bytes) -> bool:
        """Take what came in, to be fed to the connection within `gather_seconds`; False where there are none."""
        if not self._gather_seconds:
            return False
        self._gathered.append((connection, data))
        self._gathered_bytes += len(data)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_seconds, self.feed)
        if self._gathered_bytes > GATHERED_BYTES_MAX:
            self.feed()
        return True

    def feed(self) -> None:
        """Feed what was gathered now."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        for connection, data in gathered:
            connection.feed(data)

    async def close(self, timeout_s: float) -> None:
        """Accept nothing more, answer what is in flight for at most `timeout_s`, and close every connection."""
        if self._server is None:
            return
        self._server.close()
        self.feed()
        for connection in list(self.connections):
            connection.finish()
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while self.connections and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(_POLL_SECONDS)
        for connection in list(self.connections):
            connection.abort()
        await self._server.wait_closed()
