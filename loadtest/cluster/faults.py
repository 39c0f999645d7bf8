"""What may break under the platform, how it is broken, and how it is mended. Each is one drill."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from dsp.events.topics import Topic
from dsp.stream.port import Entry, EventLog
from loadtest.cluster.drive import Drive, processes
from loadtest.cluster.servers import Servers
from loadtest.ledger import noticed, opened_log
from loadtest.platform import PlatformError

#: How long a part stays broken where nothing is said.
HOLD_SECONDS = 5.0
SLOW_MS = 50
CLOCK_SECONDS = 300
RECOVERY_SECONDS_MAX = 120.0
RESTART_SECONDS = 180.0
_COPIED = 2_000
_POISON = 20


@dataclass(frozen=True, slots=True)
class Scene:
    """What a drill acts upon."""

    drive: Drive
    servers: Servers

    def pids(self, prefix: str) -> list[int]:
        """Return the ids of the processes whose names begin so, those that are ready."""
        found = sorted(processes(self.drive.platform).items())
        return [pid for name, pid in found if name.startswith(prefix) and pid]


#: Runs in a thread, and returns when it is done.
Act = Callable[[Scene], object]


def _nothing(_: Scene) -> None:
    """What mends itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One drill: broken, held for a while, mended."""

    name: str
    act: Act
    mend: Act = _nothing
    hold_seconds: float = HOLD_SECONDS
    recovery_seconds_max: float = RECOVERY_SECONDS_MAX
    run_dry: bool = False  # bidding is to stop before it can recover


def _kill(prefix: str) -> Act:
    return lambda scene: os.kill(scene.pids(prefix)[0], signal.SIGKILL)


def _signal_valkey(number: signal.Signals) -> Act:
    return lambda scene: os.kill(scene.servers.valkey.pid, number)


def _lose_valkey(scene: Scene) -> None:
    scene.servers.valkey.kill()
    scene.servers.valkey.lose()


def _start_one_broker(scene: Scene) -> None:
    scene.servers.kafka.launch(0)
    scene.servers.kafka.wait(0)


def _kill_all_brokers(scene: Scene) -> None:
    for node in range(len(scene.servers.kafka.ports)):
        scene.servers.kafka.end(node, signal.SIGKILL)


def _limit_files(scene: Scene, size: int) -> None:
    for pid in scene.pids("bidder"):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _fill_disk(scene: Scene) -> None:
    """Take Kafka away, so that the bidders write to disk, and let none of their files grow."""
    _limit_files(scene, 0)
    _kill_all_brokers(scene)


def _free_disk(scene: Scene) -> None:
    _limit_files(scene, resource.RLIM_INFINITY)
    scene.servers.kafka.start()


def _on_log(work: Callable[[EventLog], Coroutine[Any, Any, None]]) -> Act:
    """Return what does this with the platform's event log."""

    async def act(scene: Scene) -> None:
        async with opened_log(scene.drive.platform.settings) as log:
            await work(log)

    return lambda scene: asyncio.run(act(scene))


async def _copy_records(log: EventLog) -> None:
    """Append the latest notices once more, in another order."""
    copied = [Entry(record.key, record.value) for record in (await noticed(log))[-_COPIED:]]
    Random(1).shuffle(copied)  # noqa: S311 - no secret
    await log.append(Topic.NOTICES, copied)


async def _poison(log: EventLog) -> None:
    await log.append(Topic.NOTICES, [Entry(str(number), b"\xff no event") for number in range(_POISON)])


def _rebalance(scene: Scene) -> None:
    """Let shares of the notices change hands in the middle of batches: a third ledger worker comes, and dies."""
    for _ in range(2):
        third = scene.drive.platform.start("dsp", "worker", "ledger")
        time.sleep(HOLD_SECONDS)
        third.kill()
        third.wait()


def _restart(scene: Scene) -> None:
    """Replace all processes, one after the other, as for a new version."""
    before = processes(scene.drive.platform)
    scene.drive.platform.restart()
    give_up_at = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < give_up_at:
        now = processes(scene.drive.platform)
        if len(now) == len(before) and all(now.values()) and not set(now.values()) & set(before.values()):
            return
        time.sleep(0.2)
    raise PlatformError("the rolling restart did not end in time")


FAULTS = (
    Fault("a bidder killed", _kill("bidder")),
    Fault("a ledger worker killed", _kill("ledger")),
    Fault("rolling restart of all processes", _restart),
    Fault("ledger workers come and go in mid-batch", _rebalance),
    Fault("notices duplicated and reordered in Kafka", _on_log(_copy_records)),
    Fault("records that are no events", _on_log(_poison)),
    Fault(
        "one Kafka broker of three killed",
        lambda scene: scene.servers.kafka.end(0, signal.SIGKILL),
        _start_one_broker,
    ),
    Fault("all Kafka brokers killed for a minute", _kill_all_brokers, lambda scene: scene.servers.kafka.start(), 60.0),
    Fault("the same, and the bidders' disk full", _fill_disk, _free_disk),
    Fault(
        f"Valkey {SLOW_MS} ms slow",
        lambda scene: scene.servers.proxy.delay(SLOW_MS // 2),  # each way
        lambda scene: scene.servers.proxy.delay(0),
    ),
    Fault("Valkey hung", _signal_valkey(signal.SIGSTOP), _signal_valkey(signal.SIGCONT)),
    Fault("Valkey killed", lambda scene: scene.servers.valkey.kill(), lambda scene: scene.servers.valkey.start()),
    # Bidders live on their leases for a while; then nobody gets money until all that may be outstanding has expired.
    Fault(
        "Valkey killed, its data gone",
        _lose_valkey,
        lambda scene: scene.servers.valkey.start(),
        recovery_seconds_max=300.0,
        run_dry=True,
    ),
    Fault(
        "PostgreSQL killed", lambda scene: scene.servers.postgres.kill(), lambda scene: scene.servers.postgres.start()
    ),
    # Those of the platform's processes; Kafka's, which stamps what happens, is right.
    Fault(
        "clocks five minutes ahead, then back",
        lambda scene: scene.servers.clock.ahead(CLOCK_SECONDS),
        lambda scene: scene.servers.clock.ahead(0),
        20.0,
    ),
)
