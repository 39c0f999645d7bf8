"""One port: accepts connections, and closes them in order at the end."""

import asyncio
from collections.abc import Callable

from bidder.connection import Connection, Handler

BACKLOG = 1_024
_POLL_SECONDS = 0.01


class Listener:
    """Serves one port with one handler; `broken` is called for what is not even HTTP."""

    def __init__(
        self,
        handler: Handler,
        broken: Callable[[], None],
        body_bytes_max: int,
        keepalive_seconds: float,
        request_seconds_max: float,
    ) -> None:
        self.handler = handler
        self.broken = broken
        self.body_bytes_max = body_bytes_max
        self.keepalive_seconds = keepalive_seconds
        self.request_seconds_max = request_seconds_max
        self.connections: set[Connection] = set()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int, reuse_port: bool) -> None:
        """Open the port; `self.port` then tells which it is."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self, loop), host, port, reuse_port=reuse_port or None, backlog=BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self, timeout_s: float) -> None:
        """Accept nothing more, answer what is in flight for at most `timeout_s`, and close every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.finish()
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while self.connections and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(_POLL_SECONDS)
        for connection in list(self.connections):
            connection.abort()
        await self._server.wait_closed()
