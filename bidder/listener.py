"""A lean aiohttp server: no routing, no middleware, bodies as they came, arrival stamped, and no word to strangers.

Whatever goes wrong in HTTP itself is answered with a bare status and counted, never with a page or a traceback.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from dsp.kernel import logging

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: Request lines and header fields longer than this are refused; a notice URL holds a token and a price.
LINE_BYTES_MAX = 8_190
BACKLOG = 1_024
LINGERING_SECONDS = 1.0


class Connection(RequestHandler):
    """One client's connection. `arrived_ns` is when its latest bytes came, on the monotonic clock."""

    __slots__ = ("arrived_ns",)

    def data_received(self, data: bytes) -> None:
        """Stamp the arrival: what waits for its turn after this counts against the deadline."""
        self.arrived_ns = perf_counter_ns()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a fault of the protocol with an empty body."""
        if status >= 500:
            logging.get(__name__).error("unhandled", fault=repr(exc))
        if isinstance(self._manager, Listener):
            self._manager.broken(status)
        response = web.Response(status=status)
        response.force_close()
        return response


class Listener(web.Server):
    """Serves one port with one handler; `broken` is told the status of every answer that HTTP itself forced."""

    def __init__(
        self, handler: Handler, broken: Callable[[int], None], body_bytes_max: int, keepalive_s: float
    ) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=keepalive_s,
            lingering_time=LINGERING_SECONDS,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
        )
        self.broken = broken
        self.port = 0
        self._body_bytes_max = body_bytes_max
        self._server: asyncio.Server | None = None

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: Any,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._body_bytes_max
        )

    async def listen(self, host: str, port: int, reuse_port: bool) -> None:
        """Open the port; `self.port` then tells which it is."""
        self._server = await self._loop.create_server(self, host, port, reuse_port=reuse_port or None, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self, timeout_s: float) -> None:
        """Accept nothing more, let what is in flight finish, and close every connection."""
        if self._server is not None:
            self._server.close()
            self.pre_shutdown()
            await self.shutdown(timeout_s)
            await self._server.wait_closed()
