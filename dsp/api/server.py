"""Runs the API as a process: starts, waits for the end, drains."""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from dsp.api.app import create_app
from dsp.api.config import ApiConfig
from dsp.api.connection import Connection
from dsp.api.context import Services
from dsp.cache.connect import blob_store
from dsp.kernel import limits, logging, process
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import Lifecycle
from dsp.store.database import create_engine, url
from dsp.stream.connect import event_log

#: Clients that wait in the kernel; as many are taken in one turn of the event loop, before any of them is refused.
_BACKLOG = 128
#: Of the databases, the event log, the blobs, and of two turns' clients that are not refused yet.
_FILES_OWN = 256 + 2 * _BACKLOG


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Declare the process ready once it listens."""
        await super().startup(sockets)
        if self.started:
            self._lifecycle.ready()
            port = self.servers[0].sockets[0].getsockname()[1]
            logging.get(__name__).info("api started", host=self.config.host, port=port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the lifecycle."""
        yield


async def run(settings: Mapping[str, Any]) -> None:
    """Serve until a signal or the supervisor's death ends it.

    Raises:
        UnavailableError: the port is taken.
    """
    platform: Platform = settings["platform"]
    api: ApiConfig = settings["api"]
    logging.configure("api", platform.log_level)
    process.describe(settings)
    lifecycle, engine = Lifecycle(), create_engine(url(platform))
    clock = SystemClock()
    log = event_log(platform, clock)
    blobs = blob_store(platform)
    app = create_app(Services(engine, clock, platform, api, lifecycle, log, blobs))
    Connection.held_max = _held_max(Connection.held_max)
    server = _Server(
        uvicorn.Config(
            app,
            api.host,
            api.port,
            http=Connection,
            ws="none",  # else a request to upgrade passes the middleware by wherever some package speaks WebSocket
            backlog=_BACKLOG,
            log_config=None,
            access_log=False,
            log_level="error",  # what strangers send that is not HTTP is answered, and no line each
            server_header=False,
            timeout_graceful_shutdown=api.drain_timeout_seconds,
        ),
        lifecycle,
    )
    await lifecycle.start(log.open(), log.close)
    await lifecycle.start(blobs.open(), blobs.close)
    serving = asyncio.create_task(_serve(server))
    stopping = asyncio.create_task(lifecycle.wait_for_stop())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        logging.get(__name__).info("api stopping")
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        await lifecycle.stop()
        engine.dispose()


def _held_max(wanted: int) -> int:
    """Return how many connections there may be, so that there are files left for the process's own work."""
    return max(1, min(wanted, limits.allow_files(_FILES_OWN + wanted) - _FILES_OWN))


async def _serve(server: _Server) -> None:
    try:
        await server.serve()
    except SystemExit as fault:  # how uvicorn reports that it cannot listen
        raise UnavailableError(f"cannot listen on {server.config.host}:{server.config.port}") from fault
