"""The API as a process: it listens, answers over a real socket, survives rubbish, and stops on SIGTERM."""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from dsp.api.connection import Connection
from dsp.kernel.config import Platform
from dsp.store.database import url
from dsp.store.migrate import upgrade
from tests.servers import free_port
from tests.waiting import eventually

START_SECONDS = 90.0


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def process(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    upgrade(url(Platform(data_dir=str(tmp_path))))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSP_")}
    env = {**kept, "DSP_PLATFORM_DATA_DIR": str(tmp_path), "DSP_API_PORT": str(port)}
    with (tmp_path / "api.log").open("wb") as log:
        started = subprocess.Popen([sys.executable, "-m", "dsp", "api"], env=env, stderr=log)
    try:
        give_up = time.monotonic() + START_SECONDS
        while not _ready(port):
            assert started.poll() is None, (tmp_path / "api.log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        yield started
    finally:
        started.kill()
        started.wait()


def _status(port: int, path: str, headers: Mapping[str, str] | None = None) -> int:
    return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60.0).status_code


def _counted(port: int, series: str) -> str:
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60.0).text.splitlines()
    return next((line.removeprefix(series) for line in lines if line.startswith(series)), "0")


def _ready(port: int) -> bool:
    try:
        return _status(port, "/readyz") == 200
    except httpx.TransportError:
        return False


async def _raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


@pytest.mark.platform
async def test_a_life(process: subprocess.Popen[bytes], port: int, tmp_path: Path) -> None:
    head = b"POST /v1/advertisers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    for rubbish in (
        b"\x00\xff\x16\x03\x01", b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/advertisers HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        head + b"Content-Length: 99999999999\r\n\r\n{", head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/campaigns/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", head + b"X-Big: " + b"x" * 100_000 + b"\r\n\r\n",
    ):  # fmt: skip
        answer = await _raw(port, rubbish)
        assert b"HTTP/1.1 5" not in answer, rubbish
        assert b"Traceback" not in answer
    broken = 'dsp_api_requests_total{method="OTHER",route="unmatched",status="400"}'
    assert float(_counted(port, broken)) >= 4  # what is not even HTTP; the rest is counted by its method
    asked = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AA==",
    }
    assert _status(port, "/v1/advertisers", asked) == 401
    assert _ready(port)
    assert _status(port, "/v1/advertisers") == 401
    logged = (tmp_path / "api.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in logged] == ["api started"]  # strangers write nothing into our log
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "api.log").read_text()


async def test_clients_that_do_not_ask_keep_nobody_out() -> None:
    """Silent ones and those whose request does not end are let go; one that waits for its answer stays."""

    class Impatient(Connection):
        request_seconds_max = 0.2

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive())["more_body"]:
            pass
        await asyncio.sleep(1.0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, http=Impatient, lifespan="off", log_config=None))
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    clients = []
    for said in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        clients.append((reader, writer))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await asyncio.wait_for(reader.readline(), 60) == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    for reader, writer in clients:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
    server.should_exit = True
    await serving


@pytest.mark.platform
def test_a_taken_port_is_told_without_a_traceback(process: subprocess.Popen[bytes], port: int, tmp_path: Path) -> None:
    env = {**os.environ, "DSP_PLATFORM_DATA_DIR": str(tmp_path), "DSP_API_PORT": str(port)}
    command = [sys.executable, "-m", "dsp", "api"]
    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert second.returncode == 1
    assert f"127.0.0.1:{port}" in second.stderr
    assert "Traceback" not in second.stderr


def test_strangers_who_hold_connections_open_do_not_use_up_the_files(
    tmp_path: Path, port: int, process: subprocess.Popen[bytes]
) -> None:
    files = Connection.held_max + 512  # what it asks for; many systems allow more
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(files + 128):
            last = held.enter_context(socket.create_connection(("127.0.0.1", port), 60.0))
        with suppress(ConnectionResetError):
            assert last.recv(1) == b""  # refused at once, or by now for want of a request
    eventually(lambda: _ready(port))
    assert "out of system resource" not in (tmp_path / "api.log").read_text()
