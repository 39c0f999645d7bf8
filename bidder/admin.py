"""The admin port, meant for operators and not for strangers: /metrics, /healthz, /readyz."""

import os
from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST

from bidder.connection import Reply, Request
from bidder.readiness import Readiness
from dsp.kernel import metrics
from dsp.kernel.lifecycle import PROCESS_HEADER
from dsp.kernel.metrics_text import MetricsText

_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
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
        if request.path not in _PATHS:
            return _refused("path", Reply(404))
        if request.method != "GET":
            return _refused("method", Reply(405, b"Allow: GET\r\n"))
        if request.fault:
            return _refused(request.fault, Reply(400, close=True))
        if request.path == "/healthz":  # alive is all it says; it never looks at a dependency
            return Reply(200, self._told, b"ok\n")
        if request.path == "/readyz":
            status = 200 if self._readiness.ready() else 503
            return Reply(status, self._told, f"{self._readiness.word()}\n".encode("ascii"))
        await self._refresh()
        return Reply(200, _METRICS, await self._text.render())

    def broken(self) -> None:
        """Count a request that was not even HTTP."""
        metrics.ADMIN_REFUSED.labels("http_malformed").inc()


def _refused(reason: str, reply: Reply) -> Reply:
    metrics.ADMIN_REFUSED.labels(reason).inc()
    return reply
