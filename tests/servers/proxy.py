"""A TCP proxy before a server: what goes through it can be kept waiting, stopped or cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Listens on a free loopback port. Set `delay_seconds` for every packet, or clear `open` to let nothing through."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self._target = port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.close()
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            away, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back), (away, writer)):
            pipe = asyncio.create_task(self._pump(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            try:
                while packet := await source.read(65_536):
                    due = loop.time() + self.delay_seconds
                    await asyncio.sleep(due - loop.time())
                    await self.open.wait()
                    sink.write(packet)
                    await sink.drain()
            finally:
                sink.close()


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy before a port of this machine."""
    made = Proxy(port)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
