"""The servers that the platform runs on, started for one run on loopback ports and ended by their ids."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import uvloop

from deploy.dev import free_port, free_ports, postgres, valkey
from deploy.dev.kafka import broker
from loadtest.cluster.clock import Clock
from loadtest.cluster.proxy import Proxy
from loadtest.platform import PlatformError

_T = TypeVar("_T")

BIDDERS = LEDGERS = 2
#: Brokers have machines of their own; here, started all at once, they would take the exchange's processor.
BROKERS_NICE = 10


@dataclass(frozen=True, slots=True)
class Servers:
    """Kafka, Valkey behind a proxy that can be slow, PostgreSQL, and the clock that the platform lives by."""

    kafka: broker.Cluster
    valkey: valkey.Valkey
    proxy: Proxy
    postgres: postgres.Postgres
    database_url: str
    clock: Clock

    @property
    def settings(self) -> Mapping[str, str]:
        """Return what the platform's processes are told, two bidders and two ledger workers among them."""
        return {
            "DSP_PLATFORM_STREAM_URL": f"kafka://{self.kafka.servers}",
            "DSP_PLATFORM_STREAM_REPLICAS": str(len(self.kafka.ports)),
            "DSP_PLATFORM_STREAM_PARTITIONS": "4",
            "DSP_PLATFORM_CACHE_URL": f"redis://127.0.0.1:{self.proxy.port}/0",
            "DSP_PLATFORM_DATABASE_URL": self.database_url,
            "DSP_UP_BIDDERS": str(BIDDERS),
            "DSP_UP_WORKERS": f'{{"ledger": {LEDGERS}}}',
            **self.clock.settings,
        }


@contextmanager
def servers(folder: Path, brokers: int = 1) -> Iterator[Servers]:
    """Start all; whatever happens, end them.

    Raises:
        PlatformError: one is not to be had here, or does not start.
    """
    why = broker.missing()
    if why is not None:
        raise PlatformError(f"no Kafka: {why}")
    with ExitStack() as stack:
        try:
            ports = free_ports(2 * brokers)
            kafka = broker.Cluster(folder / "kafka", ports[:brokers], ports[brokers:], nice=BROKERS_NICE)
            stack.callback(kafka.stop)
            kafka.start()
            (folder / "valkey").mkdir(parents=True)
            cache = valkey.Valkey(valkey.program(), folder / "valkey")
            stack.callback(cache.stop)
            cache.start()
            proxy = Proxy(free_port(), cache.port)
            stack.callback(proxy.stop)
            database = stack.enter_context(postgres.running(postgres.Postgres))
            yield Servers(kafka, cache, proxy, database, database.create_database("dsp"), Clock(folder))
        except (LookupError, RuntimeError) as fault:
            raise PlatformError(str(fault)) from fault


def on_servers(work: Callable[[Path, Servers], Coroutine[Any, Any, _T]], brokers: int = 1) -> _T:
    """Return what this makes of a folder for the platform and servers for it, which are ended afterwards.

    Raises:
        PlatformError: as `servers`.
    """
    with (
        TemporaryDirectory(prefix="dsp-cluster-") as folder,
        servers(Path(folder), brokers) as running,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(work(Path(folder) / "platform", running))
