"""A client's connection: uvicorn's, but for how many there may be, the patience with clients that do not ask, and a
count of what is not HTTP.
"""

import asyncio
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dsp.api.middleware import OTHER, UNMATCHED
from dsp.kernel.metrics import API_REQUESTS


class Connection(HttpToolsProtocol):
    """Closes when no request has come whole for too long: uvicorn waits for ever for the first, and for a body."""

    request_seconds_max: ClassVar[float] = 10.0
    #: Who comes beyond that is not taken: strangers must not use up the files that the process needs for its own work.
    held_max: ClassVar[int] = 1_024

    _last: RequestResponseCycle | None = None  # the request that the last look found

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look every so often, or refuse the client."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.request_seconds_max, self._look)
        if len(self.connections) > self.held_max:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Count what is not HTTP, which no middleware sees, and say so."""
        API_REQUESTS.labels(method=OTHER, route=UNMATCHED, status=int(HTTPStatus.BAD_REQUEST)).inc()
        super().send_400_response(msg)

    def _look(self) -> None:
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete and not cycle.more_body
        if cycle is self._last and not answering:
            self.transport.abort()
            return
        self._last = cycle
        self._timer = self.loop.call_later(self.request_seconds_max, self._look)
