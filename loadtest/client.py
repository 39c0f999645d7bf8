"""A small HTTP/1.1 client on kept connections, one request at a time on each, as exchanges hold them.

Leaner than a general one, so that on a small machine the simulated exchange takes little from the bidder it measures.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, cast

import httptools

TIMEOUT_SECONDS = 10.0


class Answer(NamedTuple):
    """A whole answer; `location` is "" where there is none."""

    status: int
    body: bytes
    location: str


class Client:
    """Keeps connections to any number of hosts; use as an asynchronous context manager.

    `ends_tls` is a public base URL, and the plain one behind the balancer that ends its TLS: what goes to the one is
    sent to the other.
    """

    def __init__(
        self,
        connections_max: int = 256,
        timeout_seconds: float = TIMEOUT_SECONDS,
        ends_tls: tuple[str, str] = ("", ""),
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._public, self._behind = ends_tls
        self._free = asyncio.Semaphore(connections_max)
        self._idle: defaultdict[tuple[str, int], deque[_Connection]] = defaultdict(deque)
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in list(self._open):
            connection.close()
        self._idle.clear()

    async def get(self, url: str) -> Answer:
        """Send a GET; redirects are not followed. Raises OSError when there is no whole answer in time."""
        if self._public and url.startswith(self._public):
            url = self._behind + url.removeprefix(self._public)
        return await self._exchange("GET", url, b"", b"")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a POST. Raises OSError when there is no whole answer in time."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return await self._exchange("POST", url, f"{lines}Content-Length: {len(body)}\r\n".encode("latin-1"), body)

    async def _exchange(self, method: str, url: str, headers: bytes, body: bytes) -> Answer:
        host, port, path = _target(url)
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n".encode("latin-1")
        async with self._free, asyncio.timeout(self._timeout_seconds):
            connection = await self._connection(host, port)
            try:
                answer = await connection.ask(head + headers + b"\r\n" + body)
            except BaseException:
                connection.close()
                raise
            if connection.alive:
                self._idle[host, port].append(connection)
            return answer

    async def _connection(self, host: str, port: int) -> "_Connection":
        idle = self._idle[host, port]
        while idle:
            connection = idle.pop()
            if connection.alive:
                return connection
        _, made = await asyncio.get_running_loop().create_connection(lambda: _Connection(self._open), host, port)
        return made


def _target(url: str) -> tuple[str, int, str]:
    """Return host, port and path with query of a plain http URL."""
    scheme, _, authority, *rest = url.split("/", 3)
    if scheme != "http:":
        raise ConnectionError(f"only plain http is spoken here, not {scheme}")
    host, port = _authority(authority)
    return host, port, "/" + (rest[0] if rest else "")


@lru_cache(maxsize=64)
def _authority(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port or 80)


class _Connection(asyncio.Protocol):
    def __init__(self, everyone: "set[_Connection]") -> None:
        self._everyone = everyone
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []
        self._location = ""

    @property
    def alive(self) -> bool:
        """Tell whether another request may be sent."""
        return self._transport is not None

    async def ask(self, request: bytes) -> Answer:
        """Send one request and return its answer."""
        if self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Close at once."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._everyone.discard(self)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._everyone.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as fault:
            self._fail(ConnectionError(f"not HTTP: {fault}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("closed before the answer"))

    def _fail(self, fault: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        self.close()
        if waiting is not None and not waiting.done():
            waiting.set_exception(fault)

    # the parser's side

    def on_message_begin(self) -> None:
        self._body = []
        self._location = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self._location = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        waiting, self._waiting = self._waiting, None
        if not self._parser.should_keep_alive():
            self.close()
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(self._parser.get_status_code(), b"".join(self._body), self._location))
