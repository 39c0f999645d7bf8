"""One connection to a Redis or Valkey server, without a task or a stream of its own: replies go to who waits for them.

A bid waits for what is read here, so that every turn of the event loop between the socket and the bid counts.
"""

import asyncio
from collections.abc import Sequence
from ssl import SSLContext
from typing import Any, cast

import hiredis
from redis.exceptions import InvalidResponse, ResponseError

Command = tuple[Any, ...]
#: A ResponseError where the server refused, of all that it said: a code and words.
Reply = Any


class Connection(asyncio.Protocol):
    """Does one call at a time. It is of no use any more once it is closed, or where a call was not awaited."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._transport: asyncio.Transport | None = None
        self._replies: list[Reply] = []
        self._count = 0
        self._answer: asyncio.Future[list[Reply]] | None = None

    @property
    def closed(self) -> bool:
        """Return whether either end has closed it."""
        return self._transport is None or self._transport.is_closing()

    def run(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        """Send commands; return what will have their replies, or a ConnectionError where it is lost before."""
        answer: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        if self._transport is None:
            answer.set_exception(ConnectionError("the connection is lost"))
            return answer
        self._answer, self._replies, self._count = answer, [], len(commands)
        self._transport.write(b"".join(map(hiredis.pack_command, commands)))
        return answer

    def close(self) -> None:
        """Release it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Implement asyncio.Protocol."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
        except InvalidResponse as fault:
            self._fail(ConnectionError(f"no Redis answers there: {fault}"))
            self.close()
            return
        if len(self._replies) >= self._count and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.Protocol."""
        self._transport = None
        self._fail(ConnectionError("the server closed the connection" if exc is None else str(exc)))

    def _fail(self, fault: ConnectionError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(fault)


async def connect(place: tuple[str, int], tls: SSLContext | None, greeting: Sequence[Command]) -> Connection:
    """Return a connection on which the server has agreed to the greeting: who we are, and which database we use.

    Raises:
        OSError: nobody is there, or it did not agree.
    """
    _, connection = await asyncio.get_running_loop().create_connection(Connection, *place, ssl=tls)
    try:
        if greeting:
            for reply in await connection.run(greeting):
                if isinstance(reply, Exception):
                    raise ConnectionError(str(reply)) from reply
    except BaseException:
        connection.close()
        raise
    return connection
