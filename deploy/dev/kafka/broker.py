"""Runs a real Apache Kafka for development and tests: KRaft, no Docker, no root, one broker or several on loopback.

    python deploy/dev/kafka/broker.py start --data var/kafka --port 9092
    python deploy/dev/kafka/broker.py stop --data var/kafka

The jars come from Maven (pom.xml beside this file) and are kept in var/tools/kafka. Needs `mvn` once, and a JDK of
version 17 or newer. Only the standard library is used.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
JARS = _HERE.parents[2] / "var" / "tools" / "kafka"
_POM = _HERE / "pom.xml"
#: Any will do that is the same on all nodes: the cluster's id, in KRaft's form of a UUID.
_CLUSTER_ID = "ZHNwLWRldi1rYWZrYS0wMA"
_FETCH_SECONDS = 600
_FORMAT_SECONDS = 180
_START_SECONDS = 180
_STOP_SECONDS = 60


class Cluster:
    """Nodes that are broker and controller at once, each in its own folder and process.

    Broker `n` (from 0) listens on `ports[n]`, its part of the controller on `controller_ports[n]`. `nice` is how far
    they yield the processor to others.
    """

    def __init__(
        self, data: Path, ports: list[int], controller_ports: list[int], heap_mb: int = 256, nice: int = 0
    ) -> None:
        self._data = data
        self.ports = ports
        self._controller_ports = controller_ports
        self._heap_mb = heap_mb
        self._nice = nice
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # those that this object started

    @property
    def servers(self) -> str:
        """Return the addresses of all brokers, as clients take them."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self) -> None:
        """Format what is new, start every node and wait until each accepts connections."""
        fetch_jars()
        for node in range(len(self.ports)):
            self.launch(node)
        for node in range(len(self.ports)):
            self.wait(node)

    def launch(self, node: int) -> None:
        """Start one node without waiting for it."""
        if node in self._processes:
            self._processes[node].wait(_STOP_SECONDS)
        folder = self._data / f"node-{node}"
        folder.mkdir(parents=True, exist_ok=True)
        properties = folder / "server.properties"
        properties.write_text(self._properties(node, folder / "log"), encoding="utf-8")
        if not (folder / "log" / "meta.properties").exists():
            self._format(properties)
        with (folder / "broker.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                [*self._java(), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
            )  # fmt: skip
        (folder / "pid").write_text(f"{self._processes[node].pid}\n", encoding="ascii")

    def wait(self, node: int) -> None:
        """Wait until a node accepts connections.

        Raises:
            RuntimeError: it ended, or did not listen in time; the end of its log is in the message.
        """
        give_up_at = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.ports[node])) == 0:
                    return
            if time.monotonic() > give_up_at or not self._runs(node):
                log = (self._data / f"node-{node}" / "broker.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"broker {node} did not start:\n{log[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop every node in order, killing what does not end in time."""
        for node in range(len(self.ports)):
            self.end(node, signal.SIGTERM)
        for node in range(len(self.ports)):
            if not self._ended(node):
                self.end(node, signal.SIGKILL)
                self._ended(node)

    def end(self, node: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one node's process; nothing happens when it is gone."""
        if self._runs(node):
            os.kill(self.pid(node), number)

    def pid(self, node: int) -> int:
        """Return the id of a node's process; 0 when none runs."""
        folder = self._data / f"node-{node}"
        if not (folder / "pid").exists():
            return 0
        pid = int((folder / "pid").read_text(encoding="ascii"))
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return 0
        if Path("/proc/self").exists():  # after a restart of the machine another process may have that id
            command = Path(f"/proc/{pid}/cmdline")
            return pid if str(folder / "server.properties").encode() in command.read_bytes() else 0
        return pid

    def _runs(self, node: int) -> bool:
        if node in self._processes:
            return self._processes[node].poll() is None
        return self.pid(node) != 0

    def _ended(self, node: int) -> bool:
        give_up_at = time.monotonic() + _STOP_SECONDS
        while self._runs(node):
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.05)
        return True

    def _java(self) -> list[str]:
        options = [f"-Xmx{self._heap_mb}m", f"-Xms{min(self._heap_mb, 128)}m", "-XX:+UseSerialGC"]
        options += ["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return ["nice", "-n", str(self._nice), "java", *options, "-cp", f"{JARS}/*"]

    def _format(self, properties: Path) -> None:
        command = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties)]
        _done([*self._java(), *command], _FORMAT_SECONDS, "storage not formatted")

    def _properties(self, node: int, log: Path) -> str:
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(self._controller_ports))
        replicas = len(self.ports)
        settings = {
            "node.id": node,
            "process.roles": "broker,controller",
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.ports[node]},"
            f"CONTROLLER://127.0.0.1:{self._controller_ports[node]}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": log,
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": max(1, replicas - 1),
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "group.initial.rebalance.delay.ms": 0,
            # A killed broker is missed sooner than in a real cluster, so that development need not wait.
            "broker.session.timeout.ms": 3_000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 2,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def missing() -> str | None:
    """Return why no broker can run here, or None."""
    if shutil.which("java") is None:
        return "there is no java"
    if shutil.which("mvn") is None and not _fetched():
        return "there is no mvn to fetch Kafka's jars with"
    return None


def fetch_jars() -> None:
    """Fetch Kafka's jars, unless those of this pom.xml are there; safe to call from several processes at once."""
    JARS.mkdir(parents=True, exist_ok=True)
    with (JARS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _fetched():
            return
        for jar in JARS.glob("*.jar"):  # of another version
            jar.unlink()
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={JARS}"]
        _done(["mvn", "-q", "-B", "-f", str(_POM), *goal], _FETCH_SECONDS, "jars not fetched")
        (JARS / "pom.xml").write_bytes(_POM.read_bytes())


def _done(command: list[str], seconds: float, fault: str) -> None:
    """Run a command; what it prints is of interest where it fails alone."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{fault}:\n{done.stdout}{done.stderr}")


def _fetched() -> bool:
    known = JARS / "pom.xml"
    return known.exists() and known.read_bytes() == _POM.read_bytes()


def main() -> None:
    """Start or stop a cluster whose data lies in one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("fetch", "start", "stop"))
    parser.add_argument("--data", type=Path, default=Path("var/kafka"), help="folder of the brokers' data")
    parser.add_argument("--port", type=int, default=9092, help="of the first broker; the others follow")
    parser.add_argument("--nodes", type=int, default=1, help="how many brokers; they keep a copy each")
    arguments = parser.parse_args()
    ports = [arguments.port + node for node in range(arguments.nodes)]
    cluster = Cluster(arguments.data, ports, [port + 10_000 for port in ports])
    if arguments.command == "fetch":
        fetch_jars()
    elif arguments.command == "stop":
        cluster.stop()
    else:
        why = missing()
        if why is not None:
            sys.exit(why)
        cluster.start()
        sys.stdout.write(f"kafka://{cluster.servers}\n")


if __name__ == "__main__":
    main()
