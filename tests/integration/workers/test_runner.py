"""The loop that every worker runs in: retry, poison, stop, metrics; and each worker as a real process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dsp.kernel.config import Platform
from dsp.kernel.errors import UnavailableError
from dsp.kernel.metrics import BATCHES_FAILED
from dsp.store.migrate import upgrade
from dsp.workers import runner
from dsp.workers.config import WORKERS, WorkersConfig
from tests.busy import slowdown
from tests.servers import free_port

REPOSITORY = Path(__file__).parents[3]


class Job:
    """Does what the test says at each step, and remembers when."""

    def __init__(self, act: Callable[[int], Awaitable[bool]], opens: int = 1) -> None:
        self.act = act
        self.opens_at = opens
        self.opened = self.closed = 0
        self.steps: list[float] = []

    async def open(self) -> None:
        self.opened += 1
        if self.opened < self.opens_at:
            raise UnavailableError("not yet")

    async def close(self) -> None:
        self.closed += 1

    async def step(self) -> bool:
        self.steps.append(time.monotonic())
        return await self.act(len(self.steps))


def terminate_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def run(job: Job, interval_ms: int = 0, **settings: int) -> None:
    tables: dict[str, msgspec.Struct] = {
        "platform": Platform(log_level="critical"),
        "workers": WorkersConfig(**settings),
    }
    await asyncio.wait_for(runner.run("ledger", tables, job, interval_ms), 30)


def failures() -> float:
    return BATCHES_FAILED.labels(worker="ledger")._value.get()


@pytest.mark.parametrize("fault", [UnavailableError("away"), ValueError("surprise"), OSError("disk")])
async def test_a_failing_batch_is_counted_and_tried_again_with_growing_waits(fault: Exception) -> None:
    async def act(step: int) -> bool:
        if step <= 4:
            raise fault
        terminate_self()
        return True

    before, job = failures(), Job(act)
    await run(job, retry_ms_min=20, retry_ms_max=50)
    assert failures() - before == 4
    gaps = [later - earlier for earlier, later in zip(job.steps[:4], job.steps[1:5], strict=True)]
    assert all(gap >= wait for gap, wait in zip(gaps, [0.02, 0.04, 0.05, 0.05], strict=True))
    assert (job.opened, job.closed) == (1, 1)


async def test_opening_is_tried_again_too() -> None:
    async def act(_: int) -> bool:
        terminate_self()
        return False

    job = Job(act, opens=3)
    await run(job, interval_ms=5_000, retry_ms_min=1)
    assert (job.opened, job.closed, len(job.steps)) == (3, 1, 1)


async def test_it_goes_on_at_once_while_more_is_waiting_and_else_keeps_its_interval() -> None:
    async def act(step: int) -> bool:
        if step == 23:
            terminate_self()
        return step < 20

    job = Job(act)
    await run(job, interval_ms=100)
    assert job.steps[19] - job.steps[0] < 0.1 * 19
    assert all(later - earlier >= 0.09 for earlier, later in zip(job.steps[19:22], job.steps[20:23], strict=True))


async def test_a_metrics_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{port}"):
            await run(Job(_never), metrics_port_base=port)


async def _never(_: int) -> bool:
    raise AssertionError


async def test_a_stop_does_not_wait_for_the_interval_or_the_back_off() -> None:
    async def rest(_: int) -> bool:
        asyncio.get_running_loop().call_later(0.05, terminate_self)
        return False

    async def fail(_: int) -> bool:
        asyncio.get_running_loop().call_later(0.05, terminate_self)
        raise UnavailableError("away")

    for act in (rest, fail):  # in the time that `run` gives it
        await run(Job(act), interval_ms=60_000, retry_ms_min=60_000, retry_ms_max=60_000)


async def test_a_step_that_has_begun_is_finished_before_the_end() -> None:
    finished = []

    async def act(_: int) -> bool:
        terminate_self()
        await asyncio.sleep(0.1)
        finished.append(True)
        return True

    job = Job(act)
    await run(job)
    assert (finished, job.closed, len(job.steps)) == ([True], 1, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_records": 0},
        {"wait_ms": 1_001},
        {"pacing_step_ms": -1},
        {"hang_seconds": -1},
        {"retention_hours": -0.5},
        {"metrics_port_base": 65_535},
        {"traffic_curve": (1.0,) * 23},
        {"traffic_curve": (0.0,) * 24},
        {"traffic_curve": (1.0,) * 23 + (-1.0,)},
    ],
)
def test_settings_that_no_worker_could_run_with_are_refused(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        WorkersConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.platform
@pytest.mark.parametrize("name", WORKERS)
def test_a_real_worker_shows_metrics_and_stops_within_a_second(name: str, tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path / 'dsp.db'}")
    base = free_port(len(WORKERS))
    environment = os.environ | {"DSP_PLATFORM_DATA_DIR": str(tmp_path), "DSP_WORKERS_METRICS_PORT_BASE": str(base)}
    command = [sys.executable, "-m", "dsp", "worker", name]
    with subprocess.Popen(command, env=environment, cwd=REPOSITORY) as worker:
        try:
            text = metrics(base + WORKERS.index(name), worker)
            assert "dsp_worker_failures_total" in text
            began = time.monotonic()
            worker.terminate()
            assert worker.wait(60) == 0
            assert time.monotonic() - began < 2.0 * slowdown()  # a second, and as much for what a busy machine hides
        finally:
            worker.kill()


#: A worker that does two steps and hangs in the third, where signals do not reach it.
HANGING = """
import asyncio, threading
from dsp.kernel.config import Platform
from dsp.workers import runner
from dsp.workers.config import WorkersConfig

class Job:
    steps = 0
    async def open(self): pass
    async def close(self): pass
    async def step(self):
        self.steps += 1
        if self.steps == 3:
            stuck()
        await asyncio.sleep(0.7)
        return True

def stuck():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

tables = {"platform": Platform(log_level="critical"), "workers": WorkersConfig(hang_seconds=1)}
asyncio.run(runner.run("ledger", tables, Job()))
"""


def test_a_worker_whose_step_hangs_says_where_and_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "in stuck" in ended.stderr
    assert "in step" in ended.stderr


def metrics(port: int, worker: "subprocess.Popen[bytes]") -> str:
    give_up_at = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            assert worker.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
