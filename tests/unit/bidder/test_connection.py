"""HTTP on a real socket: order, keeping alive, bounds in size and time, and an end that drops nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from bidder.connection import HEAD_BYTES_MAX, PIPELINE_MAX, Reply, Request
from bidder.listener import Listener
from tests.waiting import until


class Echo:
    """Answers with what it understood; waits at the gate first, and fails when told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.seen: list[Request] = []
        self.broken_count = 0

    async def __call__(self, request: Request) -> Reply:
        self.seen.append(request)
        await self.gate.wait()
        if request.path == "/fail":
            raise RuntimeError("inside")
        if request.fault:
            return Reply(400, b"", request.fault.encode(), close=True)
        return Reply(200, b"X-A: b\r\n", f"{request.method} {request.path} {len(request.body)}".encode())

    def broken(self) -> None:
        self.broken_count += 1


class Served:
    def __init__(self, echo: Echo, listener: Listener) -> None:
        self.echo = echo
        self.listener = listener

    async def raw(self, data: bytes, seconds: float = 30.0) -> bytes:
        """Send bytes and return what comes back until the end, or until `seconds` have passed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        found = b""
        try:
            async with asyncio.timeout(seconds):
                writer.write(data)
                while chunk := await reader.read(65_536):
                    found += chunk
        except TimeoutError:
            pass
        finally:
            writer.close()
        return found


@pytest.fixture(params=[0.0, 0.01], ids=["at-once", "gathered"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    echo = Echo()
    listener = Listener(
        echo,
        echo.broken,
        body_bytes_max=1_000,
        keepalive_seconds=5.0,
        request_seconds_max=0.3,
        gather_seconds=request.param,
    )
    await listener.listen("127.0.0.1", 0, False)
    yield Served(echo, listener)
    echo.gate.set()
    await listener.close(1.0)


CLOSE = b"Connection: close\r\n"


def get(path: str, extra: bytes = b"", version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: x\r\n".encode() + extra + b"\r\n"


def post(path: str, body: bytes, extra: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode() + extra + b"\r\n" + body


async def test_one_exchange(served: Served) -> None:
    answer = await served.raw(post("/a?b=c", b"body", CLOSE))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nServer: dsp\r\nDate: ")
    assert b"\r\nX-A: b\r\nConnection: close\r\nContent-Length: 9" in head
    assert body == b"POST /a 4"
    assert served.echo.seen[0].query == "b=c"
    assert served.echo.seen[0].headers[b"host"] == b"x"


@pytest.mark.parametrize("step", [1, 7, 50])
async def test_bytes_may_come_in_any_pieces(served: Served, step: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    data = post("/a", b"x" * 20) + get("/b", CLOSE)
    for begin in range(0, len(data), step):
        writer.write(data[begin : begin + step])
        await writer.drain()
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    assert answer.index(b"POST /a 20") < answer.index(b"GET /b 0")


async def test_pipelined_answers_keep_their_order_and_reading_ahead_is_bounded(served: Served) -> None:
    served.echo.gate.clear()
    count = 5 * PIPELINE_MAX
    data = b"".join(get(f"/{number}") for number in range(count - 1)) + get("/last", CLOSE)
    asking = asyncio.create_task(served.raw(data))
    await until(lambda: bool(served.echo.seen))
    await asyncio.sleep(0.05)
    assert len(served.echo.seen) == 1  # one at a time
    served.echo.gate.set()
    answer = await asking
    paths = [line.split()[1] for line in answer.replace(b"HTTP/1.1", b"\n").split(b"\n") if line.startswith(b"GET ")]
    assert paths == [*(b"/%d" % number for number in range(count - 1)), b"/last"]


async def test_what_comes_with_a_head_that_is_cut_does_not_count_as_its_bytes(served: Served) -> None:
    bodies, cut = post("/a", b"x" * 900) * 40, post("/cut", b"body", CLOSE)
    assert len(bodies) > HEAD_BYTES_MAX
    reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    writer.write(bodies + cut[:30])
    await until(lambda: len(served.echo.seen) == 40)
    writer.write(cut[30:])
    answer = await reader.read()
    writer.close()
    assert answer.count(b"HTTP/1.1 200") == 41
    assert answer.endswith(b"POST /cut 4")


async def test_a_head_that_comes_in_parts_is_bounded(served: Served) -> None:
    served.listener.request_seconds_max = 60.0
    reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    writer.write(b"GET /a HTTP/1.1\r\na: ")
    for _ in range(HEAD_BYTES_MAX // 1_000 + 2):
        writer.write(b"b" * 1_000)
        await asyncio.sleep(0.002)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")


async def test_trailers_are_no_headers(served: Served) -> None:
    begin = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n4\r\nbody\r\n0\r\n"
    assert b"HTTP/1.1 200" in await served.raw(begin + b"Content-Encoding: gzip\r\n\r\n")
    assert b"content-encoding" not in served.echo.seen[0].headers
    many = await served.raw(begin + b"A: " + b"b" * 2 * HEAD_BYTES_MAX + b"\r\n\r\n")
    assert many.startswith(b"HTTP/1.1 400")


async def test_head_is_told_the_length_of_a_body_that_it_does_not_get(served: Served) -> None:
    answer = await served.raw(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n" + get("/b", CLOSE))
    first, _, rest = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 9" in first
    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert rest.endswith(b"GET /b 0")


async def test_http_1_0(served: Served) -> None:
    answer = await served.raw(get("/a", version="1.0"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer
    answer = await served.raw(get("/a", b"Connection: keep-alive\r\n", "1.0") + get("/b", version="1.0"))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"Connection: keep-alive" in answer


async def test_chunked_bodies_and_expectations(served: Served) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    assert b"POST /a 8" in await served.raw(head + b"\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n")
    answer = await served.raw(head + b"Expect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        post("/a", b"x" * 1_001),
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 100_000,
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fff0\r\n" + b"x" * 60_000,
    ],
)
async def test_bodies_too_large_are_refused_before_they_end(served: Served, data: bytes) -> None:
    answer = await served.raw(data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.endswith(b"body_too_large")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", b"body_slow"),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nConte", b""),
        (b"G", b""),
    ],
)
async def test_slow_requests_are_given_up(served: Served, data: bytes, said: bytes) -> None:
    answer = await served.raw(data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.endswith(said)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        get("/a", b"".join(b"a%d: b\r\n" % number for number in range(500))),
        get("/a", b"a: " + b"b" * 2 * HEAD_BYTES_MAX + b"\r\n"),
        b"GET /a HTTP/1.1\r\na: " + b"b" * 2 * HEAD_BYTES_MAX,
    ],
)
async def test_heads_too_large_are_refused(served: Served, data: bytes) -> None:
    assert (await served.raw(data)).startswith(b"HTTP/1.1 400")


async def test_a_busy_connection_is_not_taken_for_a_slow_one(served: Served) -> None:
    served.listener.request_seconds_max = 0.9
    reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    whole = get("/a")
    writer.write(whole[:10])
    for _ in range(20):  # each piece ends one request and begins the next, for longer than one may take
        await asyncio.sleep(0.05)
        writer.write(whole[10:] + whole[:10])
    writer.write(get("/a", CLOSE)[10:])
    answer = await reader.read()
    writer.close()
    assert answer.count(b"HTTP/1.1 200") == 21


async def test_rubbish_after_a_request_does_not_cost_its_answer(served: Served) -> None:
    answer = await served.raw(get("/a") + b"\x00\x01rubbish\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 400") == 1
    assert served.echo.broken_count == 1


async def test_an_upgrade_is_not_taken(served: Served) -> None:
    answer = await served.raw(get("/a", b"Connection: Upgrade\r\nUpgrade: websocket\r\n") + b"\x81\x05hello")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer


async def test_a_fault_in_the_handler_is_500_and_nothing_else(served: Served) -> None:
    answer = await served.raw(get("/fail"))
    assert answer.startswith(b"HTTP/1.1 500")
    assert answer.endswith(b"\r\n\r\n")


async def test_idle_connections_are_closed(served: Served) -> None:
    served.listener.keepalive_seconds = 0.2
    answer = await served.raw(get("/a"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" not in answer


async def test_a_client_that_goes_away_harms_nobody(served: Served) -> None:
    served.echo.gate.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    writer.write(get("/a") * 3)
    await writer.drain()
    await until(lambda: bool(served.echo.seen))
    writer.transport.abort()
    await asyncio.sleep(0.02)
    served.echo.gate.set()
    assert b"GET /b 0" in await served.raw(get("/b", CLOSE))


async def test_close_answers_those_who_have_just_connected(served: Served) -> None:
    async with asyncio.timeout(60.0):
        reader, idle = await asyncio.open_connection("127.0.0.1", served.listener.port)
        late = [socket.create_connection(("127.0.0.1", served.listener.port), 60.0) for _ in range(20)]
        for client in late:  # the loop has had no turn to accept them
            client.sendall(get("/late"))
        idle.write(get("/idle"))
        await served.listener.close(30.0)
        answers = [client.recv(4_096) for client in late]
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    for client in late:
        client.close()
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.listener.port), 1.0)


async def test_close_answers_what_is_in_flight(served: Served) -> None:
    served.echo.gate.clear()
    asking = asyncio.create_task(served.raw(get("/a") + get("/b")))
    idle = asyncio.create_task(served.raw(b""))
    await until(lambda: bool(served.echo.seen) and len(served.listener.connections) == 2)
    closing = asyncio.create_task(served.listener.close(30.0))
    await asyncio.sleep(0.02)
    served.echo.gate.set()
    answer = await asking
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b"Connection: close") == 1
    assert await idle == b""
    await closing
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection("127.0.0.1", served.listener.port)


async def test_what_is_gathered_is_handled_together_and_counts_even_if_its_sender_has_left() -> None:
    echo = Echo()
    listener = Listener(echo, echo.broken, 1_000, 5.0, 0.3, gather_seconds=60.0)
    await listener.listen("127.0.0.1", 0, False)
    staying = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
    leaving = await asyncio.open_connection("127.0.0.1", listener.port)
    for number, (_, writer) in enumerate(staying):
        writer.write(get(f"/{number}"))
        await writer.drain()
    await asyncio.sleep(0.05)
    assert not echo.seen
    leaving[1].write(get("/left"))
    leaving[1].close()
    for number, (reader, _) in enumerate(staying):
        await asyncio.wait_for(reader.readuntil(b"GET /%d 0" % number), 30.0)
    assert sorted(request.path for request in echo.seen) == ["/0", "/1", "/left"]
    for _, writer in staying:
        writer.close()
    await listener.close(1.0)


async def test_more_than_the_bound_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bidder.listener.GATHERED_BYTES_MAX", 50)
    echo = Echo()
    listener = Listener(echo, echo.broken, 1_000, 5.0, 0.3, gather_seconds=60.0)
    await listener.listen("127.0.0.1", 0, False)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(post("/a", b"x" * 100))
    await asyncio.wait_for(reader.readuntil(b"POST /a 100"), 30.0)
    writer.close()
    await listener.close(1.0)
