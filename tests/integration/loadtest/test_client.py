"""The small HTTP client: kept connections, and a fault for every way an answer can fail to come."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from loadtest.client import Client

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def server() -> AsyncIterator[Callable[[Serve], Awaitable[str]]]:
    """Start servers that answer as a test says; each is stopped at its end."""
    started: list[asyncio.Server] = []

    async def start(serve: Serve) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                return
            finally:
                writer.close()

        made = await asyncio.start_server(handle, "127.0.0.1", 0)
        started.append(made)
        return f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"

    yield start
    for one in started:
        one.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0)
    return head + await reader.readexactly(length)


async def test_requests_arrive_whole_and_answers_come_back_whole(server: Callable[[Serve], Awaitable[str]]) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heard.append(await read_request(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await writer.drain()
            writer.write(b"2\r\nde\r\n0\r\n\r\n")

    url = await server(serve)
    async with Client() as client:
        assert (await client.post(f"{url}/a?b=c", b"body", {"X-One": "1"})).body == b"abcde"
        assert (await client.get(f"{url}")).status == 200
    assert heard[0].startswith(b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heard[0].endswith(b"X-One: 1\r\nContent-Length: 4\r\n\r\nbody")
    assert heard[1].startswith(b"GET / HTTP/1.1")


async def test_connections_are_kept_until_the_server_says_close(server: Callable[[Serve], Awaitable[str]]) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for number in range(3):
            await read_request(reader)
            last = b"Connection: close\r\n" if number == 2 else b""
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://x.example/\r\nContent-Length: 0\r\n" + last + b"\r\n")

    url = await server(serve)
    async with Client() as client:
        for _ in range(6):
            answer = await client.get(url)
            assert (answer.status, answer.location) == (302, "http://x.example/")
    assert connections == 2


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"SSH-2.0-nonsense\r\n"])
async def test_half_an_answer_or_nonsense_is_a_fault(server: Callable[[Serve], Awaitable[str]], answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    url = await server(serve)
    async with Client() as client:
        with pytest.raises(ConnectionError):
            await client.get(url)


async def test_silence_times_out_and_the_connection_is_not_used_again(
    server: Callable[[Serve], Awaitable[str]],
) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()

    url = await server(serve)
    async with Client(timeout_seconds=0.1) as client:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await client.get(url)
    async with asyncio.timeout(30.0):
        while connections < 2:  # a busy server accepts late
            await asyncio.sleep(0.01)
    assert connections == 2


async def test_what_cannot_be_reached_or_spoken_is_a_fault() -> None:
    async with Client() as client:
        with pytest.raises(OSError, match="only plain http"):
            await client.get("https://127.0.0.1/")
        with pytest.raises(OSError):  # noqa: PT011 - the message is the system's
            await client.get("http://127.0.0.1:1/")
