"""HTTP/1.1 on one connection: llhttp parses, requests are answered in their order, and strangers get few words.

Leaner than a framework because the hot ports need nothing of one: no routing, no middleware, no streaming. Whatever is
wrong with HTTP itself, or with a body's size or pace, is a bare 400; everything is bounded in size and time.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter_ns, time
from typing import Protocol, cast
from wsgiref.handlers import format_date_time

import httptools
import msgspec

from bidder.cohort import Cohort
from dsp.kernel import logging

HEAD_BYTES_MAX = 32_768
URL_BYTES_MAX = 8_190
HEADERS_MAX = 128
#: Requests read ahead of their turn; then the client has to wait.
PIPELINE_MAX = 16
#: After an answer that closes, what still comes in is read and dropped for so long, so that the answer arrives.
LINGER_SECONDS = 1.0
#: An idle connection of a port that closes is kept for so long: its client may just be sending.
FINISH_SECONDS = 0.1


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request. Header names are lower case; `fault` says why the body is not here."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    arrived_ns: int  # monotonic, since when all of it was there: waiting for its turn counts against its deadline
    keep_alive: bool = True
    old: bool = False  # HTTP/1.0, where keeping alive must be said
    fault: str = ""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """An answer: `headers` are lines ending in CRLF, without date, length and connection."""

    status: int
    headers: bytes = b""
    body: bytes = b""
    close: bool = False


#: Runs without a task of its own: see bidder.cohort.
Handler = Callable[[Request], Awaitable[Reply]]


class Host(Protocol):
    """What a connection needs of its listener."""

    handler: Handler
    broken: Callable[[], None]
    body_bytes_max: int
    keepalive_seconds: float
    request_seconds_max: float
    connections: "set[Connection]"
    cohort: Cohort

    def gather(self, connection: "Connection", data: bytes) -> None:
        """Take what came in, to be parsed and answered a little later."""
        ...

    def feed(self) -> None:
        """Have what was gathered parsed and answered now."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Request] = deque()
        self._serving = False
        self._writable: asyncio.Future[None] | None = None
        self._arrived_ns = 0
        self._heard_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None  # ends a message that does not end, or an idle connection
        self._paused = False  # the transport reads no more for now
        self._deaf = False  # input is dropped
        self._malformed = False  # what follows the queue is not HTTP
        self._closing = False
        self._begun = self._headed = False
        self._begun_at = 0.0
        self._head_bytes = self._part_bytes = self._body_bytes = 0
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._fault = ""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._host.connections.add(self)
        self._timer = self._loop.call_later(self._host.keepalive_seconds, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.feed()  # what a client said before it left still counts
        self._transport = None
        self._deaf = True
        self._queue.clear()
        self._host.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._heard_at = self._loop.time()
        self._arrived_ns = perf_counter_ns()
        self._host.gather(self, data)

    def parse(self, data: bytes) -> None:
        """Parse what came in; what it asked is answered by `answer`."""
        if self._deaf:
            return
        begun_before = self._begun
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = self._closing = True  # the request that asked is answered; what follows is not HTTP
        except httptools.HttpParserError:
            self._deaf = self._malformed = True
        else:
            self._check_unfinished(len(data), begun_before)

    def answer(self) -> None:
        """Have what was parsed answered in the host's cohort."""
        self._wake()
        if len(self._queue) >= PIPELINE_MAX and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True

    def eof_received(self) -> bool:
        self._host.feed()
        self._closing = True
        return self._serving  # keep it open until those read are answered

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # The parser's side

    def on_message_begin(self) -> None:
        self._begun, self._headed = True, False
        self._begun_at = self._heard_at
        self._head_bytes = self._part_bytes = self._body_bytes = 0
        self._url, self._headers, self._body, self._fault = b"", {}, [], ""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if len(self._headers) >= HEADERS_MAX or self._head_bytes > HEAD_BYTES_MAX:
            self._fault = "head_too_large"
        elif not self._headed:  # what comes after a body in chunks is no header (RFC 9110, 6.5.1)
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._headed = True
        if len(self._url) > URL_BYTES_MAX:
            self._fault = "head_too_large"
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._host.body_bytes_max:
            self._fault = self._fault or "body_too_large"
            self._body.clear()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._deaf:
            self._enqueue(self._parser.should_keep_alive())
        self._begun = False

    # Ours

    def finish(self) -> None:
        """Close as soon as what was read, or is on its way, has been answered."""
        self._closing = True
        if not self._serving and not self._begun:
            self._rearm(FINISH_SECONDS, self.close_idle)

    @property
    def idle_since(self) -> float:
        """Return when, in the loop's time, an idle connection was last heard; infinity for one that is not idle."""
        return math.inf if self._serving or self._begun else self._heard_at

    def close_idle(self) -> None:
        """Close unless something has been asked."""
        if not self._serving and not self._begun:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _enqueue(self, keep_alive: bool) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        self._queue.append(
            Request(
                self._parser.get_method().decode("latin-1"),
                path,
                query,
                self._headers,
                self._body[0] if len(self._body) == 1 else b"".join(self._body),
                self._arrived_ns,
                keep_alive and not self._fault,
                self._parser.get_http_version() == "1.0",
                self._fault,
            )
        )

    def _check_unfinished(self, received: int, begun_before: bool) -> None:
        """Give a message that has begun and not ended its bounds in size and time."""
        if not self._begun:
            return
        if not self._headed:
            if begun_before:  # else others before it may have had most of what came in
                self._part_bytes += received
            if self._part_bytes > HEAD_BYTES_MAX:
                self._deaf = self._malformed = True
                return
        if self._fault:  # nothing is gained by waiting for the rest
            self._give_up(self._fault)
        elif not begun_before:
            self._rearm(self._host.request_seconds_max, self._too_slow)

    def _too_slow(self) -> None:
        left = self._begun_at + self._host.request_seconds_max - self._loop.time()
        if not self._begun or self._deaf:
            self._check_idle()
        elif left > 0.0:  # that one ended in time, and another has begun since
            self._rearm(left, self._too_slow)
        elif self._headed:
            self._give_up("body_slow")
        else:
            self._deaf = self._malformed = True
        self._wake()

    def _wake(self) -> None:
        if not self._serving and (self._queue or self._malformed):
            self._serving = True
            self._host.cohort.start(self._serve())

    def _give_up(self, fault: str) -> None:
        self._fault, self._deaf = fault, True
        self._body.clear()
        self._enqueue(False)

    def _check_idle(self) -> None:
        left = self._heard_at + self._host.keepalive_seconds - self._loop.time()
        if left <= 0 and not self._serving:
            self._close()
        else:
            self._rearm(max(left, LINGER_SECONDS), self._check_idle)

    def _rearm(self, seconds: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, what) if self._transport is not None else None

    async def _serve(self) -> None:
        """Answer what is queued, one after the other."""
        closed = False
        while self._queue and not closed:
            request = self._queue.popleft()
            try:
                reply = await self._host.handler(request)
            except Exception as fault:
                logging.get(__name__).error("unhandled", fault=repr(fault), exc_info=True)
                reply = Reply(500, close=True)
            closed = reply.close or not request.keep_alive or (self._closing and not self._queue)
            self._write(reply, closed, request.old, bodiless=request.method == "HEAD")
            if self._writable is not None:
                await self._writable
            if self._paused and len(self._queue) < PIPELINE_MAX and self._transport is not None and not self._deaf:
                self._paused = False
                self._transport.resume_reading()
        self._serving = False
        if self._malformed and not closed:
            self._host.broken()
            self._write(Reply(400), True, False)
            closed = True
        if closed:
            self._linger()

    def _write(self, reply: Reply, close: bool, old: bool, *, bodiless: bool = False) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        status, headers, body = reply.status, reply.headers, reply.body
        connection = b"Connection: close\r\n" if close else b"Connection: keep-alive\r\n" if old else b""
        # 204 has no length (RFC 9110, 8.6); everything else does, as some exchanges demand.
        length = b"" if status == HTTPStatus.NO_CONTENT else b"Content-Length: %d\r\n" % len(body)
        if bodiless:  # HEAD says how long the body would be (RFC 9110, 9.3.2)
            body = b""
        self._transport.write(b"".join((_line(status), _date(int(time())), headers, connection, length, b"\r\n", body)))

    def _linger(self) -> None:
        self._deaf = True
        self._queue.clear()
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._rearm(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@lru_cache(maxsize=64)
def _line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: dsp\r\n".encode("ascii")


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return f"Date: {format_date_time(second)}\r\n".encode("ascii")
