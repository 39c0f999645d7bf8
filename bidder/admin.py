"""The admin port, for operators and never for strangers: /metrics, /healthz, /readyz."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bidder.readiness import Readiness


class AdminHandler:
    """Answers the admin port. `refresh` sets the gauges that are only computed when somebody looks."""

    def __init__(self, readiness: Readiness, refresh: Callable[[], None]) -> None:
        self._readiness = readiness
        self._refresh = refresh

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.rel_url.raw_path
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if path == "/healthz":  # alive is all it says; it never looks at a dependency
            return web.Response(text="ok\n")
        if path == "/readyz":
            ready = self._readiness.ready()
            return web.Response(status=200 if ready else 503, text=f"{self._readiness.word()}\n")
        if path == "/metrics":
            self._refresh()
            return web.Response(
                body=await asyncio.to_thread(generate_latest), headers={"Content-Type": CONTENT_TYPE_LATEST}
            )
        return web.Response(status=404)

    def broken(self, status: int) -> None:
        """Nobody counts what an operator mistypes."""
