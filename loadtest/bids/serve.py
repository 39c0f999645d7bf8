"""One bidder process as in production and the reference beside it, on one core of their own where there is one."""

import asyncio
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from dsp.cache.local import LocalBlobStore, LocalLeaseStore
from dsp.cache.port import Limit
from dsp.catalog.entities import Catalogue
from dsp.kernel.errors import UnavailableError
from dsp.openrtb.profile import Profile, load_profiles
from dsp.pacing import columns, revaluation
from dsp.pacing.columns import PACED_BLOB
from dsp.pacing.controller import Control, Controls
from dsp.pacing.revaluation import REVALUED_BLOB
from dsp.snapshot import codec
from loadtest.bids.supply import EXCHANGE
from loadtest.platform import START_SECONDS, Platform, PlatformError, free_ports

CANDIDATES_MAX = 32
STOP_SECONDS = 15.0
#: Nothing but the specification, and no bound on the rate: how many it can answer is what is asked. Bids expire soon,
#: so that money reserved comes back within a run.
_PROFILE = """
seat = "dsp"
billing = "bill"
tmax_default_ms = 200
network_margin_ms = 10
qps_max = 1_000_000
notice_ttl_seconds = 60
"""
_SETTINGS = {"DSP_BIDDER_CANDIDATES_MAX": str(CANDIDATES_MAX)}
_WORKERS_SECONDS = 0.25
_POLL_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")


class Bench:
    """A data directory with a published catalogue, and the processes that run on it."""

    def __init__(self, directory: Path) -> None:
        profiles = directory / "exchanges"
        profiles.mkdir(parents=True)
        (profiles / f"{EXCHANGE}.toml").write_text(_PROFILE, encoding="utf-8")
        self.profile: Profile = load_profiles(profiles)[EXCHANGE]
        self._profiles = profiles
        self.platform = Platform(directory, settings=_SETTINGS, exchanges=profiles)
        self.models = self.platform.data_dir / "models"
        self._catalogue = Catalogue()
        self._paced = columns.paced(Controls(at_ms=0))
        self._blobs = LocalBlobStore(self.platform.data_dir / "blobs")

    def encoded(self, version: str) -> bytes:
        """Return the snapshot's blob under another version."""
        return codec.encode(self._catalogue, version, int(time.time() * 1_000))

    def publish(self, catalogue: Catalogue) -> None:
        """Publish what the catalogue and pacing workers would: snapshot, controls, and budgets without end."""
        self._catalogue = catalogue
        now_ms = int(time.time() * 1_000)
        controls = Controls(
            at_ms=now_ms,
            line_items={item.id: Control(multiplier=0.8 + item.id % 40 / 100) for item in catalogue.line_items},
        )
        self._paced = columns.paced(controls)
        limits = [Limit(item.id, item.campaign_id, None, None, None, None) for item in catalogue.line_items]

        async def put() -> None:
            await self._blobs.put(codec.SNAPSHOT_BLOB, self.encoded(f"bench-{now_ms}"))
            await self._blobs.put(PACED_BLOB, columns.encode(self._paced))
            leases = self._leases()
            await leases.open()
            await leases.set_limits(limits)
            await leases.close()

        asyncio.run(put())

    @contextmanager
    def bidder(self, core: int | None) -> Iterator[int]:
        """Run `python -m bidder` and what workers do for it, and yield the process's id when it is ready.

        Raises:
            PlatformError: it died, or was not ready in time.
        """
        stop = threading.Event()
        workers = threading.Thread(target=lambda: asyncio.run(self._work(stop)), name="workers")
        with self.process(self.platform, core) as process:
            workers.start()
            try:
                yield process.pid
                if process.poll() is not None:
                    raise PlatformError(f"the bidder died\n{self.platform.tail('bidder.log')}")
            finally:
                stop.set()
                workers.join()

    def sharing(self, port: int, holder: str) -> Platform:
        """Return the platform of one more bidder in this directory: of all that share a bid port."""
        settings = _SETTINGS | {"DSP_BIDDER_REUSE_PORT": "true", "DSP_BIDDER_HOLDER": holder}
        found = Platform(self.platform.data_dir, replace(free_ports(), bid=port), settings, self._profiles)
        found.logs = self.platform.logs / holder
        found.logs.mkdir(exist_ok=True)
        return found

    @contextmanager
    def process(self, platform: Platform, core: int | None) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a platform's bidder and yield its process when it is ready; raises PlatformError where it is not."""
        process = platform.start("bidder")
        try:
            _pin(process.pid, core)
            _wait(process, platform, platform.ready)
            yield process
        finally:
            end(process)

    @contextmanager
    def reference(self, core: int | None) -> Iterator[tuple[int, int]]:
        """Run the reference and yield the process's id and the port that it answers on."""
        port = free_ports().bid
        process = self.platform.start("loadtest.bids.reference", str(port))
        try:
            _pin(process.pid, core)
            _wait(process, self.platform, lambda: _listens(port))
            yield process.pid, port
        finally:
            end(process)

    def _leases(self) -> LocalLeaseStore:
        return LocalLeaseStore(self.platform.data_dir / "leases.db")

    async def _work(self, stop: threading.Event) -> None:
        """Tell the bidder what the ledger and pacing workers would.

        That all notices so far are entered, so that reservations end in time; and that the controls are meant for the
        predictor that it is about to serve, which it waits for.
        """
        leases = self._leases()
        await leases.open()
        seen = ""
        try:
            while not stop.is_set():
                with suppress(UnavailableError):  # locked for a moment; the next one tells the same
                    await leases.settle({}, int(time.time() * 1_000))
                if (told := await self._blobs.get(REVALUED_BLOB, seen)) is not None:
                    seen, data = told
                    paced = msgspec.structs.replace(self._paced, predicted_by=revaluation.decode(data).after)
                    await self._blobs.put(PACED_BLOB, columns.encode(paced))
                await asyncio.sleep(_WORKERS_SECONDS)
        finally:
            await leases.close()


def cores() -> tuple[int | None, Sequence[int]]:
    """Return the core that servers get for themselves, and those left to the load; None where there is but one."""
    if not hasattr(os, "sched_getaffinity"):
        return None, ()
    found = sorted(os.sched_getaffinity(0))
    return (found[-1], found[:-1]) if len(found) > 1 else (None, found)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(pid: int) -> float:
    """Return the memory that a process has in RAM."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(text.partition("VmRSS:")[2].split(maxsplit=1)[0]) / 1_024


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process in order; one that does not stop is killed."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", platform: Platform, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise PlatformError(f"a server did not start\n{platform.tail('bidder.log')}")
        time.sleep(_POLL_SECONDS)


def _pin(pid: int, core: int | None) -> None:
    if core is not None:
        with suppress(ProcessLookupError):  # whoever waits for it will tell that it has died
            os.sched_setaffinity(pid, {core})


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False
