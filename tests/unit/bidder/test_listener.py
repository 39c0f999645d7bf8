"""What a turn of the loop hands out is read, then parsed, then answered."""

import asyncio
import math
import socket
import time
from contextlib import suppress
from time import perf_counter_ns

import uvloop

from bidder.connection import Connection, Reply, Request
from bidder.listener import Listener

MS = 1_000_000


def test_requests_behind_slow_ones_know_that_they_waited() -> None:
    waited_ms: list[float] = []

    async def slow(request: Request) -> Reply:
        waited_ms.append((perf_counter_ns() - request.arrived_ns) / MS)
        time.sleep(0.03)  # noqa: ASYNC251 - the loop is what has to be busy
        return Reply(204)

    async def serve() -> None:
        listener = Listener(slow, lambda: None, 1_000, 5.0, 1.0)
        await listener.listen("127.0.0.1", 0, False)
        clients = [socket.create_connection(("127.0.0.1", listener.port), 5.0) for _ in range(4)]
        while len(listener.connections) < len(clients):
            await asyncio.sleep(0.01)
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while len(waited_ms) < len(clients):
            await asyncio.sleep(0.01)
        for client in clients:
            assert client.recv(4_096).startswith(b"HTTP/1.1 204")
            client.close()
        await listener.close(1.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    # How long the first waited says how busy the machine is; each of the others waited for those before it.
    assert waited_ms == sorted(waited_ms)
    assert waited_ms[3] - waited_ms[0] > 55


async def test_what_comes_in_one_turn_is_parsed_before_any_of_it_is_answered() -> None:
    done: list[tuple[str, bytes]] = []

    class Client(Connection):
        def parse(self, data: bytes) -> None:
            done.append(("parse", data))
            self._data = data

        def answer(self) -> None:
            done.append(("answer", self._data))

    async def handler(_: Request) -> Reply:
        return Reply(204)

    listener, loop = Listener(handler, lambda: None, 1_000, 5.0, 1.0), asyncio.get_running_loop()
    for data in (b"1", b"2"):
        listener.gather(Client(listener, loop), data)
    assert not done
    await asyncio.sleep(0)
    assert done == [("parse", b"1"), ("parse", b"2"), ("answer", b"1"), ("answer", b"2")]


async def test_strangers_who_hold_connections_open_keep_nobody_out() -> None:
    """The longest idle make room; who is being answered stays, and where all are, who comes is not taken."""
    gate = asyncio.Event()

    async def handler(request: Request) -> Reply:
        if request.path == "/slow":
            await gate.wait()
        return Reply(204)

    async def ask(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return reader, writer

    listener = Listener(handler, lambda: None, 1_000, 60.0, 5.0, connections_max=4)
    await listener.listen("127.0.0.1", 0, False)
    served = await ask("/slow")
    strangers = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(40)]
    reader, writer = await ask("/")
    assert await reader.readline() == b"HTTP/1.1 204 No Content\r\n"
    assert len(listener.connections) <= 4
    assert listener.crowded_out >= 38
    busy = [await ask("/slow") for _ in range(3)]
    while sum(one.idle_since == math.inf for one in listener.connections) < 4:
        await asyncio.sleep(0.01)
    last, last_writer = await ask("/")
    with suppress(ConnectionError):
        assert await last.read() == b""
    gate.set()
    for answered, _ in (served, *busy):
        assert await answered.readline() == b"HTTP/1.1 204 No Content\r\n"
    for _, each in (served, *strangers, *busy, (reader, writer), (last, last_writer)):
        each.close()
    await listener.close(1.0)
