"""What happens to every API request: an id that is echoed, metrics, a bound on how many there are at once, and an
answer even when our code fails.
"""

import re
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsp.api.context import Services
from dsp.api.errors import problem, unavailable
from dsp.kernel import logging
from dsp.kernel.clock import NS_PER_SECOND
from dsp.kernel.ids import new_id
from dsp.kernel.metrics import API_DURATION, API_REQUESTS

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
#: Labels are bounded: a method or path that we do not know is not a label.
_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
OTHER, UNMATCHED = "OTHER", "unmatched"
#: Whoever asks whether the process lives is answered however much there is to do.
_UNBOUNDED = frozenset({"/healthz", "/readyz", "/metrics"})


#: What the page at /docs needs, and nothing from elsewhere.
_OWN_CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


class Observer:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inflight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = scope["method"]
        if asked == "HEAD":  # what GET would say of itself (RFC 9110, 9.3.2); the server leaves the body out
            scope = {**scope, "method": "GET"}
        services: Services = scope["app"].state.services
        clock = services.clock
        began_ns = clock.elapsed_ns()
        request_id = _given_id(scope) or new_id(clock.now_ms())
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers["x-content-type-options"] = "nosniff"
                headers["content-security-policy"] = _OWN_CONTENT
                headers.setdefault("cache-control", "no-store")
            await send(message)

        self._inflight += 1
        try:
            if self._inflight > services.config.connections_max and scope["path"] not in _UNBOUNDED:
                detail = f"More than {services.config.connections_max} requests are being answered."
                await unavailable(request_id, detail)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except ClientDisconnect:
            status = status or HTTPStatus.BAD_REQUEST  # nobody is left to answer
        except Exception:
            logging.get(__name__).exception("request failed", request_id=request_id, path=scope["path"])
            if not status:
                detail = "The server failed; its log has the fault under the request's id."
                await problem(request_id, HTTPStatus.INTERNAL_SERVER_ERROR, detail)(scope, receive, answer)
        finally:
            self._inflight -= 1
            _count(scope, asked, status, clock.elapsed_ns() - began_ns)


def _count(scope: Scope, asked: str, status: int, elapsed_ns: int) -> None:
    route = getattr(scope.get("route"), "path", UNMATCHED)
    method = asked if asked in _METHODS else OTHER
    API_REQUESTS.labels(method=method, route=route, status=status).inc()
    API_DURATION.labels(method=method, route=route).observe(elapsed_ns / NS_PER_SECOND)


def _given_id(scope: Scope) -> str:
    """Return the caller's request id if it is one that can be echoed and logged, else an empty string."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode() and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return ""
