"""What is HTTP and what is not, against aiohttp's own server as the oracle; and any answer is one that h11 can read."""

import asyncio
import contextlib
import random
import shutil
import socket

import h11
import pytest
from aiohttp import web

from bidder.connection import Reply, Request
from bidder.listener import Listener
from tests.waiting import until

POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
WHOLE = POST + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody"
CASES = {
    "whole": WHOLE,
    "chunked": POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "trailers": POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\nA: b\r\n\r\n",
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbodyx",
    "negative length": POST + b"Content-Length: -4\r\n\r\nbody",
    "signed length": POST + b"Content-Length: +4\r\n\r\nbody",
    "length of words": POST + b"Content-Length: four\r\n\r\nbody",
    "chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nbody\r\n0\r\n\r\n",
    "negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n",
    "space before colon": POST + b"A : b\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
    "header without colon": POST + b"nothing\r\nContent-Length: 4\r\n\r\nbody",
    "header with a null": POST + b"A: b\x00c\r\nContent-Length: 4\r\n\r\nbody",
    "no version": b"GET /a\r\nHost: x\r\n\r\n",
    "another protocol": b"GET /a FTP/1.1\r\nHost: x\r\n\r\n",
    "no method": b" /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 60,
}


class Served:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, request: Request) -> Reply:
        self.bodies.append(request.body)
        return Reply(400 if request.fault else 200, close=bool(request.fault))

    def broken(self) -> None:
        """Count nothing."""


async def said(port: int, data: bytes) -> bytes:
    """Send bytes and half-close; return what comes back until the server closes, or is silent for long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(30.0):
            found = await reader.read()
    except (TimeoutError, ConnectionResetError):
        found = b""
    writer.close()
    return found


def statuses(data: bytes) -> list[int]:
    """Return the statuses of all answers, as h11 reads them; it raises where they are not HTTP."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    found = []
    while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Response):
            found.append(event.status_code)
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            break
    return found


@pytest.mark.parametrize("name", CASES)
async def test_what_is_refused_is_what_aiohttp_refuses(name: str) -> None:
    async def echo(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response()

    oracle = web.ServerRunner(web.Server(echo))
    await oracle.setup()
    site = web.TCPSite(oracle, "127.0.0.1", 0)
    await site.start()
    ours = Served()
    listener = Listener(ours, ours.broken, 1_000, 5.0, 0.5)
    await listener.listen("127.0.0.1", 0, False)
    try:
        theirs = statuses(await said(oracle.addresses[0][1], CASES[name]))
        found = statuses(await said(listener.port, CASES[name]))
    finally:
        await oracle.cleanup()
        await listener.close(1.0)
    assert [status == 200 for status in found] == [status == 200 for status in theirs]
    assert set(ours.bodies) <= ({b"body"} if CASES[name].startswith(b"POST") else {b""})


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "extra", [[], ["--http1.0"], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]]
)
async def test_curl_is_answered_twice_on_one_connection(extra: list[str]) -> None:
    ours = Served()
    listener = Listener(ours, ours.broken, 1_000, 5.0, 0.5)
    await listener.listen("127.0.0.1", 0, False)
    url = f"http://127.0.0.1:{listener.port}/a"
    try:
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--noproxy", "*", "-m", "10", "-w", "%{http_code} ", "-d", "body", *extra, url, url,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        told, _ = await curl.communicate()
    finally:
        await listener.close(1.0)
    assert told.split() == [b"200", b"200"]
    assert ours.bodies == [b"body", b"body"]


async def test_a_client_that_does_not_read_its_answers_is_not_read_from() -> None:
    answered = 0

    async def large(_: Request) -> Reply:
        nonlocal answered
        answered += 1
        return Reply(200, body=b"x" * 100_000)

    listener = Listener(large, lambda: None, 1_000, 5.0, 0.5)
    await listener.listen("127.0.0.1", 0, False)
    client = socket.create_connection(("127.0.0.1", listener.port), 5.0)
    client.setblocking(False)
    data, sent = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000, 0
    try:
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                sent += client.send(data[sent:] or b"G")
            await asyncio.sleep(0.005)
        await until(lambda: answered > 0)
        # What the sockets' buffers hold, and no more: the others wait, unanswered, at the client's expense.
        assert answered < 500
    finally:
        client.close()
        await listener.close(1.0)


async def test_bytes_changed_at_random_are_answered_in_http_or_not_at_all() -> None:
    draw, ours = random.Random(5), Served()
    listener = Listener(ours, ours.broken, 1_000, 1.0, 0.2)
    await listener.listen("127.0.0.1", 0, False)
    try:
        for _ in range(60):
            data = bytearray(draw.choice(list(CASES.values())))
            for _ in range(draw.randint(1, 4)):
                place = draw.randrange(len(data))
                data[place : place + draw.randint(0, 2)] = draw.randbytes(draw.randint(0, 3))
            found = statuses(await said(listener.port, bytes(data)))
            assert set(found) <= {200, 400}
        assert statuses(await said(listener.port, WHOLE)) == [200]
        assert ours.bodies[-1] == b"body"
    finally:
        await listener.close(1.0)
