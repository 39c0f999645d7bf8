"""The admin port, for operators and never for strangers: /metrics, /healthz, /readyz."""

import os
from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST

from bidder.connection import Reply, Request
from bidder.readiness import Readiness
from dsp.kernel.lifecycle import PROCESS_HEADER
from dsp.kernel.metrics_text import MetricsText

_TEXT = b"Content-Type: text/plain; charset=utf-8\r\n"
_METRICS = f"Content-Type: {CONTENT_TYPE_LATEST}\r\n".encode("ascii")


class AdminHandler:
    """Answers the admin port. `refresh` sets the gauges that are only computed when somebody looks."""

    def __init__(self, readiness: Readiness, refresh: Callable[[], Awaitable[None]]) -> None:
        self._readiness = readiness
        self._refresh = refresh
        self._text = MetricsText()
        self._told = _TEXT + f"{PROCESS_HEADER}: {os.getpid()}\r\n".encode("ascii")

    async def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        if request.method != "GET":
            return Reply(405, b"Allow: GET\r\n")
        if request.path == "/healthz":  # alive is all it says; it never looks at a dependency
            return Reply(200, self._told, b"ok\n")
        if request.path == "/readyz":
            status = 200 if self._readiness.ready() else 503
            return Reply(status, self._told, f"{self._readiness.word()}\n".encode("ascii"))
        if request.path == "/metrics":
            await self._refresh()
            return Reply(200, _METRICS, await self._text.render())
        return Reply(404)

    def broken(self) -> None:
        """Nobody counts what an operator mistypes."""
