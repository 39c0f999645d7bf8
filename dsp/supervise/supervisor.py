"""Starts processes by module name, watches them, restarts them, and stops them in order.

A child that dies, or that answered once and has stopped answering, is started again. One that dies again and again
before it has ever lived for a while ends the platform, as its settings or its code must be at fault; afterwards none
does, since bidders can answer without any worker. SIGHUP restarts all, one after the other; one with a relief is ended
only when that is ready. Nothing is started or restarted while checks refuse what children would read, nor started where
a port is taken.

Children inherit a pipe whose other end only the supervisor holds, so that they end when it dies, and the data
directory's lock, so that nobody else runs on the directory while any of them is left.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dsp.kernel import logging
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import PARENT_PIPE, PROCESS_HEADER, Lifecycle
from dsp.kernel.locks import lock
from dsp.supervise import ports
from dsp.supervise.ports import Address

LOCK_FILE = "up.lock"
STATUS_FILE = "up.json"
PROBE_SECONDS = 0.1
PROBE_TIMEOUT_SECONDS = 1.0
_OK = b"200"
RELIEF_SECONDS = 60.0  # for a relief to become ready; else the old child stays


class Child(NamedTuple):
    """One process: `arguments` follow the Python interpreter; without a `ready` address being alive is being ready."""

    name: str
    arguments: tuple[str, ...]
    ready: Address | None = None  # answers GET /readyz and /healthz
    stop_seconds: float = 10.0  # to end after SIGTERM, before SIGKILL
    environment: Mapping[str, str] = MappingProxyType({})  # beyond the supervisor's own
    relief: "Child | None" = None  # takes over in a rolling restart, this one from it in the next
    nice: int = 0  # how far it yields the processor to the others
    listens: tuple[Address, ...] = ()  # all that must be free before it starts


class Patience(NamedTuple):
    """How a child that dies or hangs is started again, and when one that has never lived for a window is given up."""

    wait_seconds_min: float = 0.1  # doubling with every death in the window
    wait_seconds_max: float = 5.0
    deaths_max: int = 8  # within the window; more, and it cannot be brought to life
    window_seconds: float = 60.0
    ask_seconds: float = 2.0  # a child that is ready is asked so often whether it is alive
    silences_max: int = 10  # so many times in a row without any answer, and it is killed
    orphans_seconds: float = 25.0  # for the children of a supervisor that was killed to end, a bidder's drain included


def run(
    children: Sequence[Child],
    data_path: Path,
    prepare: Callable[[], None] | None = None,
    patience: Patience = Patience(),  # noqa: B008 - immutable
    checks: Sequence[tuple[str, ...]] = (),
) -> int:
    """Run the children until SIGTERM or SIGINT; return the exit status, 1 if one could not be brought to life.

    They start in the order given and stop one after the other in reverse order. `prepare` runs before them, under
    the data directory's lock. On SIGHUP they are restarted one after the other.

    Nothing starts or restarts where one of `checks` fails: arguments that follow the Python interpreter, for commands
    that read what children read when they start, and say what is wrong with it.

    Raises:
        ConfigError: a port that a child or its relief would listen on is taken, or is not to be had.
        UnavailableError: another supervisor, or what is left of one, runs on this data directory.
    """
    held = _lock(data_path, patience.orphans_seconds)
    try:
        (data_path / STATUS_FILE).unlink(missing_ok=True)  # of a supervisor that was killed: its processes have ended
        if refused(checks):
            logging.get(__name__).error("nothing is started: what the processes would read is refused")
            return 1
        everyone = [*children, *(child.relief for child in children if child.relief is not None)]
        # What a dead supervisor left held the lock, so that it has freed its ports.
        asyncio.run(ports.check([(child.name, address) for child in everyone for address in child.listens]))
        if prepare is not None:
            prepare()
        return asyncio.run(_Supervisor(children, data_path, held, patience, checks).run())
    finally:
        os.close(held)


def _lock(data_path: Path, orphans_seconds: float) -> int:
    """Take the data directory's lock; wait for the children of a dead supervisor, but not for a living one."""
    data_path.mkdir(parents=True, exist_ok=True)
    path = data_path / LOCK_FILE
    give_up_at = time.monotonic() + orphans_seconds
    while (descriptor := lock(path)) is None:
        holder = path.read_text(encoding="ascii", errors="replace").strip()
        if _alive(holder):
            raise UnavailableError(f"{data_path} is in use by another `up` (process {holder}); stop that one first")
        if time.monotonic() > give_up_at:
            left = f"processes of another `up`, which has died, still run on {data_path}"
            raise UnavailableError(f"{left}; end them first: {STATUS_FILE} there names them")
        time.sleep(PROBE_SECONDS)
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
        self.retired = False  # to be ended and not started again
        self.on_trial = False  # another serves in its place until it is ready: it may die once
        self.proven = False  # has lived for a window: what kills it may pass, so it is never given up
        self.restarts = 0
        self.deaths: deque[float] = deque()


class _Supervisor:
    def __init__(
        self,
        children: Sequence[Child],
        data_path: Path,
        lock: int,
        patience: Patience,
        checks: Sequence[tuple[str, ...]],
    ) -> None:
        self._children = [_Running(child) for child in children]
        self._status_path = data_path / STATUS_FILE
        self._lock = lock
        self._patience = patience
        self._checks = checks
        self._lifecycle = Lifecycle()
        self._log = logging.get(__name__)
        self._failed = False
        self._announced = False
        self._keepers: list[asyncio.Task[None]] = []
        self._rolling: asyncio.Task[None] | None = None
        self._pipe_read, self._pipe_write = os.pipe()

    async def run(self) -> int:
        stop = asyncio.create_task(self._lifecycle.wait_for_stop())
        for running in self._children:
            self._start(running)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._roll)
        try:
            await stop
        finally:
            self._lifecycle.request_stop()
            self._log.info("platform stopping")
            if self._rolling is not None:
                await self._rolling
            for running in reversed(self._children):
                await self._end(running)
            await asyncio.gather(*self._keepers)
            os.close(self._pipe_write)
            os.close(self._pipe_read)
            self._status_path.unlink(missing_ok=True)
        self._log.info("platform stopped", failed=self._failed)
        return int(self._failed)

    def _start(self, running: _Running) -> None:
        keeper = asyncio.create_task(self._keep(running))
        keeper.add_done_callback(lambda done: self._lifecycle.request_stop() if done.exception() else None)
        self._keepers.append(keeper)

    async def _keep(self, running: _Running) -> None:
        """Start one child again and again until a stop is asked for, or until it dies too often to have ever lived."""
        name, loop = running.child.name, asyncio.get_running_loop()
        while not self._over(running):
            process, began = await self._spawn(running.child), loop.time()
            running.process = process
            if self._over(running):  # while it was being started: the ordered stop did not see it
                process.kill()
            self._log.info("child started", child=name, pid=process.pid)
            probe = asyncio.create_task(self._probe(running, process))
            status = await process.wait()
            probe.cancel()
            running.ready = False
            running.retired |= running.on_trial
            if self._over(running):
                return
            wait = self._mourn(running, began, loop.time())
            if wait is None:
                self._log.error("child cannot be brought to life", child=name, status=_status(status))
                self._failed = True
                self._lifecycle.request_stop()
                return
            self._write_status()
            self._log.warning("child died", child=name, status=_status(status), restart_in_seconds=wait)
            await self._lifecycle.sleep(wait)

    def _over(self, running: _Running) -> bool:
        return running.retired or self._lifecycle.stop_requested()

    def _roll(self) -> None:
        """Begin a rolling restart; one that is going on already is enough."""
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        # What has no relief is ended before its successor says that it cannot live: of one bidder that is an outage.
        if await _refused(self._checks):
            self._log.error("nothing is restarted: what the processes would read is refused")
            return
        for running in list(self._children):
            if self._lifecycle.stop_requested() or not await self._replace(running):
                return

    async def _replace(self, running: _Running) -> bool:
        """Let another process take over from a child's; False where it does not get ready, and then the child stays."""
        child, place = running.child, self._children.index(running)
        self._log.info("child being replaced", child=child.name)
        if child.relief is None:  # the two cannot live at once
            successor = _Running(child)
            successor.proven = running.proven
            await self._retire(running)
        else:
            successor = _Running(child.relief._replace(relief=child._replace(relief=None)))
            successor.on_trial = True
        self._children.insert(place, successor)
        self._start(successor)
        give_up_at = asyncio.get_running_loop().time() + RELIEF_SECONDS
        while not successor.ready:
            if self._lifecycle.stop_requested():
                return False
            if successor.retired or (successor.on_trial and asyncio.get_running_loop().time() > give_up_at):
                self._log.error("relief did not become ready, the old process stays", child=child.name)
                await self._retire(successor)
                return False
            await self._lifecycle.sleep(PROBE_SECONDS)
        if successor.on_trial:
            successor.on_trial = False
            await self._retire(running)
        return True

    async def _retire(self, running: _Running) -> None:
        running.retired = True
        await self._end(running)
        self._children.remove(running)
        self._write_status()

    def _mourn(self, running: _Running, began: float, now: float) -> float | None:
        """Count a death; return how many seconds to wait before the next start, or None to give the child up."""
        running.restarts += 1
        running.proven |= now - began > self._patience.window_seconds
        running.deaths.append(now)
        while running.deaths[0] < now - self._patience.window_seconds:
            running.deaths.popleft()
        deaths = len(running.deaths)
        if deaths > self._patience.deaths_max and not running.proven:
            return None
        return min(self._patience.wait_seconds_min * 2.0 ** (deaths - 1), self._patience.wait_seconds_max)

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *child.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **child.environment, PARENT_PIPE: str(self._pipe_read)},
            pass_fds=(self._pipe_read, self._lock),
            # Ctrl-C in a terminal reaches the supervisor alone, which stops in order. In a session of its own a child
            # would have as large a share of the processor as all others, whatever its priority (sched(7), autogroup).
            process_group=0,
        )
        if child.nice:  # a bidder sets its own priority
            with suppress(ProcessLookupError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + child.nice)
        return process

    async def _probe(self, running: _Running, process: asyncio.subprocess.Process) -> None:
        """Watch for the child to become ready, announce the platform once all are, and kill a child that hangs."""
        address = running.child.ready
        while address is not None and await _asked("/readyz", *address, process.pid) != _OK:
            await self._lifecycle.sleep(PROBE_SECONDS)
            if self._over(running):
                return
        running.ready = True
        self._write_status()
        if not self._announced and all(other.ready for other in self._children):
            self._announced = True
            self._log.info("platform ready")
        if address is None:
            return
        silences = 0
        while silences < self._patience.silences_max:
            await self._lifecycle.sleep(self._patience.ask_seconds)
            if self._over(running):
                return
            # Not whether it is ready: what that depends on may keep it waiting, and no restart mends that.
            silences = 0 if await _asked("/healthz", *address, process.pid) else silences + 1
        self._log.error("child does not answer, killed", child=running.child.name, pid=process.pid)
        process.kill()

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


def refused(checks: Sequence[tuple[str, ...]]) -> bool:
    """Return whether one of the checks fails; what they say of it goes to standard error, each line once."""
    return asyncio.run(_refused(checks))


async def _refused(checks: Sequence[tuple[str, ...]]) -> bool:
    done = await asyncio.gather(*map(_checked, checks))
    told = "".join(words.decode(errors="replace") for _, words in done)
    for line in dict.fromkeys(told.splitlines()):  # several checks read the tables that processes share
        print(line, file=sys.stderr)
    return any(status for status, _ in done)


async def _checked(arguments: tuple[str, ...]) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, words = await process.communicate()
    return process.returncode, words


def _status(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit {returncode}"


async def _asked(path: str, host: str, port: int, pid: int) -> bytes:
    """Return the status that this process answers, empty where it does not; another one may have its port."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return b""
    if f"\r\n{PROCESS_HEADER}: {pid}\r\n".lower().encode() not in head.lower():
        return b""
    return b"".join(head.split()[1:2])
