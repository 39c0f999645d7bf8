"""One host: starts the platform's processes by module name, watches them, restarts them, and stops them in order.

Children inherit a pipe whose other end only the supervisor holds, so that they end when it dies, and the data
directory's lock, so that nobody else runs on the directory while any of them is left.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dsp.kernel import logging
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import PARENT_PIPE, Lifecycle
from dsp.workers.config import WORKERS

LOCK_FILE = "up.lock"
STATUS_FILE = "up.json"
LOCK_WAIT_SECONDS = 10.0  # for the children of a supervisor that was killed to end
PROBE_SECONDS = 0.1
PROBE_TIMEOUT_SECONDS = 1.0


class Child(NamedTuple):
    """One process: `arguments` follow the Python interpreter; without a `ready` address being alive is being ready."""

    name: str
    arguments: tuple[str, ...]
    ready: tuple[str, int] | None = None  # host and port that answer GET /readyz
    stop_seconds: float = 10.0  # to end after SIGTERM, before SIGKILL


class Patience(NamedTuple):
    """How a child that dies is started again, and when it is given up."""

    wait_seconds_min: float = 0.1  # doubling with every death in the window
    wait_seconds_max: float = 5.0
    deaths_max: int = 8  # within the window; more, and it cannot be kept alive
    window_seconds: float = 60.0


def platform(path: str | None, env: Mapping[str, str]) -> list[Child]:
    """Return the processes of the embedded platform, the bidder last, so that it stops first.

    Of the settings in the TOML file `path` and in `env` it reads where bidder and API answer `/readyz`, unchecked:
    the processes check their own tables.
    """
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}

    def address(table: str, prefix: str, default_port: int) -> tuple[str, int] | None:
        def setting(name: str, default: object) -> str:
            key = f"{prefix}{name}"
            return env.get(f"DSP_{table}_{key}".upper(), str(tables.get(table, {}).get(key, default)))

        port = int(setting("port", default_port))
        return (setting("host", "127.0.0.1"), port) if port else None  # port 0 is chosen by the process itself

    workers = [Child(name, ("-m", "dsp", "worker", name)) for name in WORKERS]
    api = Child("api", ("-m", "dsp", "api"), address("api", "", 8000))
    bidder = Child("bidder", ("-m", "bidder"), address("bidder", "admin_", 9090), stop_seconds=15.0)
    return [*workers, api, bidder]


def run(
    children: Sequence[Child],
    data_path: Path,
    prepare: Callable[[], None] | None = None,
    patience: Patience = Patience(),  # noqa: B008 - immutable
) -> int:
    """Run the children until SIGTERM or SIGINT; return the exit status, 1 if one could not be kept alive.

    They start in the order given and stop one after the other in reverse order. `prepare` runs before them, under
    the data directory's lock.

    Raises:
        UnavailableError: another supervisor, or what is left of one, runs on this data directory.
    """
    lock = _lock(data_path)
    try:
        if prepare is not None:
            prepare()
        return asyncio.run(_Supervisor(children, data_path, lock, patience).run())
    finally:
        os.close(lock)


def _lock(data_path: Path) -> int:
    """Take the data directory's lock; wait for the children of a dead supervisor, but not for a living one."""
    data_path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data_path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    give_up_at = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            if _alive(holder) or time.monotonic() > give_up_at:
                os.close(descriptor)
                message = f"{data_path} is in use by another `up` (process {holder or 'unknown'}); stop that one first"
                raise UnavailableError(message) from None
            time.sleep(PROBE_SECONDS)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class _Running:
    """A child and what is known of its present process."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self.restarts = 0
        self.deaths: deque[float] = deque()


class _Supervisor:
    def __init__(self, children: Sequence[Child], data_path: Path, lock: int, patience: Patience) -> None:
        self._children = [_Running(child) for child in children]
        self._status_path = data_path / STATUS_FILE
        self._lock = lock
        self._patience = patience
        self._lifecycle = Lifecycle()
        self._log = logging.get(__name__)
        self._failed = False
        self._announced = False
        self._pipe_read, self._pipe_write = os.pipe()

    async def run(self) -> int:
        stop = asyncio.create_task(self._lifecycle.wait_for_stop())
        keepers = [asyncio.create_task(self._keep(running)) for running in self._children]
        try:
            await asyncio.wait({stop, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._lifecycle.request_stop()
            self._log.info("platform stopping")
            for running in reversed(self._children):
                await self._end(running)
            await asyncio.gather(stop, *keepers)
            os.close(self._pipe_write)
            os.close(self._pipe_read)
            self._status_path.unlink(missing_ok=True)
        self._log.info("platform stopped", failed=self._failed)
        return int(self._failed)

    async def _keep(self, running: _Running) -> None:
        """Start one child again and again until a stop is asked for, or until it dies too often."""
        name, loop = running.child.name, asyncio.get_running_loop()
        while not self._lifecycle.stop_requested():
            process = running.process = await self._spawn(running.child)
            if self._lifecycle.stop_requested():  # while it was being started: the ordered stop did not see it
                process.kill()
            self._log.info("child started", child=name, pid=process.pid)
            probe = asyncio.create_task(self._probe(running))
            status = await process.wait()
            probe.cancel()
            running.ready = False
            if self._lifecycle.stop_requested():
                return
            wait = self._mourn(running, loop.time())
            if wait is None:
                self._log.error("child cannot be kept alive", child=name, status=_status(status))
                self._failed = True
                self._lifecycle.request_stop()
                return
            self._write_status()
            self._log.warning("child died", child=name, status=_status(status), restart_in_seconds=wait)
            await self._lifecycle.sleep(wait)

    def _mourn(self, running: _Running, now: float) -> float | None:
        """Count a death; return how many seconds to wait before the next start, or None to give the child up."""
        running.restarts += 1
        running.deaths.append(now)
        while running.deaths[0] < now - self._patience.window_seconds:
            running.deaths.popleft()
        deaths = len(running.deaths)
        if deaths > self._patience.deaths_max:
            return None
        return min(self._patience.wait_seconds_min * 2.0 ** (deaths - 1), self._patience.wait_seconds_max)

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *child.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, PARENT_PIPE: str(self._pipe_read)},
            pass_fds=(self._pipe_read, self._lock),
            start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone, which stops in order
        )

    async def _probe(self, running: _Running) -> None:
        """Watch for the child to become ready; announce the platform once all are."""
        address = running.child.ready
        while address is not None and not await _readyz(*address):
            await self._lifecycle.sleep(PROBE_SECONDS)
            if self._lifecycle.stop_requested():
                return
        running.ready = True
        self._write_status()
        if not self._announced and all(other.ready for other in self._children):
            self._announced = True
            self._log.info("platform ready")

    def _write_status(self) -> None:
        """Tell people and tests which process is which; a convenience, so never worth failing for."""
        status = {
            "pid": os.getpid(),
            "children": {
                running.child.name: {
                    "pid": running.process.pid if running.process else None,
                    "ready": running.ready,
                    "restarts": running.restarts,
                }
                for running in self._children
            },
        }
        draft = self._status_path.with_suffix(".draft")
        try:
            draft.write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")
            draft.replace(self._status_path)
        except OSError as fault:
            self._log.warning("status not written", fault=str(fault))

    async def _end(self, running: _Running) -> None:
        process = running.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), running.child.stop_seconds)
        except TimeoutError:
            self._log.error("child did not stop in time, killed", child=running.child.name, pid=process.pid)
            process.kill()
            await process.wait()
            self._failed = True
            return
        if process.returncode not in (0, -signal.SIGTERM):
            self._log.warning("child ended badly", child=running.child.name, status=_status(process.returncode))


def _status(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit {returncode}"


async def _readyz(host: str, port: int) -> bool:
    """Return whether GET /readyz answers 200."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return answer.split()[1:2] == [b"200"]
