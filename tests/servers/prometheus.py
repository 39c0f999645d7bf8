"""Prometheus and promtool: those on PATH, or what deploy/dev/prometheus/install has unpacked."""

import json
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.servers import absent, free_port

ROOT = Path(__file__).parents[2]
_UNPACKED = ROOT / ".tools" / "prometheus" / "usr" / "bin"
START_SECONDS = 120.0
STOP_SECONDS = 60.0


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; skip or fail the test where there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    return found or absent(f"no {name}: run deploy/dev/prometheus/install, or install Prometheus")


class Prometheus:
    """One server on a free loopback port; start and stop it."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder = folder
        self._config = config
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        give_up_at = time.monotonic() + START_SECONDS
        while True:
            with suppress(URLError, OSError), urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=1.0):
                return
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise AssertionError((self._folder / "prometheus.log").read_text(encoding="utf-8")[-2_000:])
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it; harmless where it does not run."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; a malformed one is an AssertionError."""
        return list(self._get("query", query=expression)["result"])

    def get(self, path: str) -> Any:
        """Return the data of an endpoint below /api/v1/."""
        return self._get(path)

    def _get(self, path: str, **fields: str) -> Any:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(fields)}", timeout=60.0) as answer:
                return json.load(answer)["data"]
        except HTTPError as fault:
            raise AssertionError(f"{fields}: {fault.read().decode()}") from fault
