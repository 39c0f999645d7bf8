"""A TCP proxy in a process of its own that can be told to be slow: what a network does to a server that is well.

    python -m loadtest.cluster.proxy LISTEN_PORT SERVER_PORT

Each line on its standard input is the delay in milliseconds from then on, either way.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

_CHUNK_BYTES = 65_536


class Proxy:
    """The process."""

    def __init__(self, port: int, server_port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__, str(port), str(server_port)], stdin=subprocess.PIPE, text=True
        )

    def delay(self, milliseconds: int) -> None:
        """Let everything take so much longer from now on, each way."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it was asked for
        stdin.write(f"{milliseconds}\n")
        stdin.flush()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate(timeout=10.0)  # which closes its standard input, too


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_ms: Callable[[], int]) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            if wait := delay_ms():
                await asyncio.sleep(wait / 1_000)
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(port: int, server_port: int) -> None:
    delay = [0]

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", server_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _pass_on(reader, server_writer, lambda: delay[0]), _pass_on(server_reader, writer, lambda: delay[0])
        )

    def told() -> None:
        line = sys.stdin.readline()
        if line:
            delay[0] = int(line)
        else:
            asyncio.get_running_loop().remove_reader(sys.stdin)

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    asyncio.get_running_loop().add_reader(sys.stdin, told)
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
