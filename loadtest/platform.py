"""Starts and stops the platform's own commands in a data directory, and reads what the bidder says of itself."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from dsp.kernel import config
from dsp.kernel.lifecycle import PARENT_PIPE

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "config" / "demo" / "catalogue.toml"
#: The simulated exchanges' profiles, whose keys are no secrets; and those that an operator starts from.
EXCHANGES = ROOT / "config" / "demo" / "exchanges"
EXCHANGES_SHIPPED = ROOT / "config" / "exchanges"
#: The settings as shipped; what a run changes of them is in `_environment`.
SETTINGS = ROOT / "config" / "dsp.toml"
#: Ours in the simulated consent strings; any number up to loadtest.world.VENDOR_MAX.
VENDOR_ID = 1_000
#: Where notices are sent to: over TLS, as impressions that ask for `secure` need it. Nothing resolves the name: the
#: simulated exchange sends what goes there to the notice port (see Platform.ends_tls).
NOTICE_BASE_URL = "https://notices.dsp.example"
#: Where the output of the platform's commands goes, in its data directory.
LOGS = "logs"
START_SECONDS = 120.0
STOP_SECONDS = 30.0
_RUN_SECONDS = 120.0
_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 12
#: Reasons of a fast no: what was not decided because there was too much to do.
_SHED = ("overload", "time_short", "rate_limited")


class PlatformError(Exception):
    """A command of the platform failed or died; the message is for people."""


_PORT_MIN, _PORT_MAX, _PORTS_EACH = 12_000, 31_000, 12


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the platform listens on this machine."""

    bid: int
    notice: int
    admin: int
    api: int


@dataclass(slots=True)
class Metrics:
    """One scrape of the bidder's /metrics."""

    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        wanted = set(labels.items())
        return sum(value for (other, pairs), value in self.samples.items() if other == name and wanted <= set(pairs))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return a metric's sums by the values of one label, without those that are zero."""
        sums: dict[str, float] = {}
        for (other, pairs), value in self.samples.items():
            if other == name and value:
                key = dict(pairs).get(label, "")
                sums[key] = sums.get(key, 0.0) + value
        return sums

    def label(self, name: str, label: str) -> str:
        """Return the value of an info metric's label; "" where it is absent."""
        return next((dict(pairs).get(label, "") for (other, pairs) in self.samples if other == name), "")

    @property
    def shed(self) -> int:
        """Return how many requests were answered, and not decided, because there was too much to do."""
        reasons = self.by("dsp_no_bids_total", "reason")
        return int(sum(reasons.get(reason, 0.0) for reason in _SHED))


def free_ports() -> Ports:
    """Return ports that nobody listens on, each with some after it: bidders beyond the first take those of the admin.

    They lie below those that the kernel gives to connections, which might have one before the platform does.
    """
    while True:
        first = _PORT_MIN + secrets.randbelow(_PORT_MAX - _PORT_MIN)
        with ExitStack() as held:
            try:
                for port in range(first, first + 4 * _PORTS_EACH):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return Ports(*range(first, first + 4 * _PORTS_EACH, _PORTS_EACH))


class Platform:
    """The platform in one data directory: commands run to their end, and `dsp up` in the background."""

    def __init__(
        self,
        data_dir: Path,
        ports: Ports | None = None,
        settings: Mapping[str, str] | None = None,
        exchanges: Path = EXCHANGES,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.ports = ports or free_ports()
        self.logs = self.data_dir / LOGS
        self.logs.mkdir(parents=True, exist_ok=True)
        self._env = _environment(self.data_dir, self.ports, exchanges, settings or {})
        self._up: subprocess.Popen[bytes] | None = None
        # Whoever dies without stopping its platform closes the other end, and `dsp up` ends.
        self._pipe_read, self._pipe_write = os.pipe()
        self._env[PARENT_PIPE] = str(self._pipe_read)

    @property
    def bid_url(self) -> str:
        """Return where bid requests go."""
        return f"http://127.0.0.1:{self.ports.bid}"

    @property
    def ends_tls(self) -> tuple[str, str]:
        """Return the public base URL of notices and the plain one behind it: what a load balancer would do."""
        return NOTICE_BASE_URL, f"http://127.0.0.1:{self.ports.notice}"

    @property
    def settings(self) -> config.Platform:
        """Return what all processes share."""
        found: config.Platform = config.load({"platform": config.Platform}, None, self._env)["platform"]
        return found

    @property
    def env(self) -> dict[str, str]:
        """Return the environment that the platform's commands run in."""
        return dict(self._env)

    def run(self, *arguments: str) -> str:
        """Run one command to its end, e.g. `run("dsp", "migrate")`; return its standard output.

        Raises:
            PlatformError: it failed or took too long.
        """
        process = self.start(*arguments)
        try:
            process.wait(_RUN_SECONDS)
        except BaseException as fault:
            process.kill()
            process.wait()
            if isinstance(fault, subprocess.TimeoutExpired):
                raise PlatformError(f"`{_title(arguments)}` took longer than {_RUN_SECONDS:.0f} s") from fault
            raise
        return self.output(process, arguments)

    def start(self, *arguments: str, nice: int = 0) -> subprocess.Popen[bytes]:
        """Start one command in the background, its output going to files; see `output`.

        `nice` is how far it yields the processor to the others.
        """
        command = [sys.executable, "-m", *arguments]
        name = _file_name(arguments)
        with (self.logs / f"{name}.out").open("wb") as out, (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                command, cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                process_group=0, pass_fds=(self._pipe_read,),  # a session of its own would void priorities: sched(7)
            )  # fmt: skip
        if nice:
            with suppress(ProcessLookupError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        return process

    def output(self, process: subprocess.Popen[bytes], arguments: tuple[str, ...]) -> str:
        """Return the standard output of an ended command; raises PlatformError with its last words if it failed."""
        name = _file_name(arguments)
        if process.returncode != 0:
            raise PlatformError(
                f"`{_title(arguments)}` ended with status {process.returncode}\n{self.tail(f'{name}.log')}"
            )
        return (self.logs / f"{name}.out").read_text(encoding="utf-8")

    def tail(self, name: str) -> str:
        """Return the last lines of a log file, for a message to people."""
        path = self.logs / name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return "\n".join([f"last lines of {path}:", *(f"  {line[:400]}" for line in lines[-_LOG_TAIL_LINES:])])

    def up(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Start `dsp up` and wait until the bidder is ready to bid.

        Raises:
            PlatformError: it died or was not ready in time.
        """
        self._up = self.start("dsp", "up")
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            self.check()
            if time.monotonic() > deadline:
                raise PlatformError(f"the bidder was not ready after {START_SECONDS:.0f} s\n{self.tail('dsp-up.log')}")
            on_wait()
            time.sleep(_POLL_SECONDS)

    def restart(self) -> None:
        """Ask `dsp up` to replace its processes one after the other."""
        if self._up is not None:
            self._up.send_signal(signal.SIGHUP)

    def check(self) -> None:
        """Raise PlatformError if `dsp up` has died."""
        if self._up is not None and self._up.poll() is not None:
            raise PlatformError(f"`dsp up` ended with status {self._up.returncode}\n{self.tail('dsp-up.log')}")

    def ready(self) -> bool:
        """Tell whether the bidder says that it is ready."""
        try:
            with urlopen(f"http://127.0.0.1:{self.ports.admin}/readyz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def metrics(self) -> Metrics:
        """Return the bidder's metrics; raises OSError while it cannot be reached."""
        with urlopen(f"http://127.0.0.1:{self.ports.admin}/metrics", timeout=2.0) as answer:
            return parse_metrics(answer.read().decode("utf-8"))

    def down(self) -> int:
        """Stop `dsp up` in order and return its exit status; harmless where it does not run."""
        process, self._up = self._up, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its children see the end of its pipe and stop
                process.wait()
        return process.returncode or 0


def parse_metrics(text: str) -> Metrics:
    """Return the samples of the Prometheus text format."""
    metrics = Metrics()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metrics.samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return metrics


def no_bid_reasons(before: Metrics, after: Metrics) -> dict[str, int]:
    """Return how often each reason for no bid was counted between two scrapes, the most frequent first."""
    earlier, later = (one.by("dsp_no_bids_total", "reason") for one in (before, after))
    counts = {reason: int(count - earlier.get(reason, 0.0)) for reason, count in later.items()}
    return {reason: count for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]) if count}


def _environment(data_dir: Path, ports: Ports, exchanges: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the platform's commands; settings of the caller's own shell do not leak in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSP_")}
    ours = {
        "DSP_CONFIG": str(SETTINGS),
        "DSP_PLATFORM_DATA_DIR": str(data_dir),
        "DSP_PLATFORM_EXCHANGES_DIR": str(exchanges),
        "DSP_BIDDER_BID_PORT": str(ports.bid),
        "DSP_BIDDER_NOTICE_PORT": str(ports.notice),
        "DSP_BIDDER_ADMIN_PORT": str(ports.admin),
        "DSP_PLATFORM_PRIVACY_VENDOR_ID": str(VENDOR_ID),
        "DSP_BIDDER_NOTICE_BASE_URL": NOTICE_BASE_URL,
        "DSP_API_PORT": str(ports.api),
        "PYTHONUNBUFFERED": "1",
    }
    return kept | ours | dict(settings)


def _title(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments[:2])


def _file_name(arguments: tuple[str, ...]) -> str:
    return _title(arguments).replace(" ", "-").replace("/", "_")[:60]
