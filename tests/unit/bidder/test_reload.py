"""The reloader on a blob store and a registry that may be slow, and snapshots that take their time."""

import asyncio
import errno
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bidder.compiling import Compiled, compile_here
from bidder.reload import RETRY_SECONDS, SNAPSHOT_BLOB, Reloader
from bidder.state import Serving
from dsp.cache.local import LocalBlobStore
from dsp.catalog.status import Status
from dsp.kernel.clock import ManualClock
from dsp.pacing import columns
from dsp.pacing.columns import PACED_BLOB, paced
from dsp.pacing.controller import Control, Controls
from dsp.snapshot import active, codec
from dsp.snapshot.active import ACTIVE_BLOB
from dsp.targeting import bitmap
from loadtest.day import loop as simulated
from tests.integration.bidder.world import catalogue


async def test_a_registry_on_a_slow_volume_holds_up_no_bid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = threading.Event(), threading.Event()

    def resolve(_: Path, __: str) -> str | None:
        asked.set()
        answers.wait(10.0)
        return None

    monkeypatch.setattr("dsp.registry.resolve", resolve)
    blobs = LocalBlobStore(tmp_path / "blobs")
    await blobs.open()
    polling = asyncio.create_task(Reloader(Serving(), blobs, tmp_path / "models", 100).poll())
    async with asyncio.timeout(60.0):
        while not asked.is_set():
            await asyncio.sleep(0.01)
        for _ in range(10):  # the loop turns while the volume is silent
            await asyncio.sleep(0)
        assert not polling.done()
        answers.set()
        await polling
    await blobs.close()


async def test_what_is_wrong_with_several_places_is_told_once_each_until_it_has_passed(tmp_path: Path) -> None:
    """As when a process has no more files: each look fails in each place."""
    aliases = tmp_path / "models" / "aliases"
    aliases.mkdir(parents=True)
    blobs = LocalBlobStore(tmp_path / "blobs")
    await blobs.open()
    reloader = Reloader(Serving(), blobs, tmp_path / "models", 10)

    async def told(looks: int) -> list[str]:
        with capture_logs() as logs:
            for _ in range(looks):
                await reloader.poll()
        return [line["of"] for line in logs if line["event"] == "cannot look for changes"]

    for alias in ("champion", "landscape"):
        (aliases / alias).mkdir()
    assert await told(looks=3) == ["champion", "landscape"]
    (aliases / "champion").rmdir()
    assert await told(looks=3) == []
    (aliases / "champion").mkdir()
    assert await told(looks=3) == ["champion"]
    await blobs.close()


def alive(serving: Serving) -> list[int]:
    """Return the line items that auctions take for active."""
    assert serving.current is not None
    snapshot = serving.current.served.snapshot
    return snapshot.line_item_ids[bitmap.positions(snapshot.index.active)].tolist()  # type: ignore[no-any-return]


async def tell(blobs: LocalBlobStore, snapshot: str, revision: int, *line_item_ids: int) -> None:
    await blobs.put(ACTIVE_BLOB, active.encode(line_item_ids, snapshot, revision, revision))


class Slow:
    """Compiles at once until it is told to wait, and then when it may."""

    def __init__(self) -> None:
        self.compiling, self.go_on = threading.Event(), threading.Event()
        self.waits = False

    def __call__(self, data: bytes) -> Compiled:
        if self.waits:
            self.compiling.set()
            self.go_on.wait(60.0)
        return compile_here(data)


class Failing:
    """Compiles only from the `works_from`-th time on."""

    def __init__(self, works_from: int) -> None:
        self.works_from, self.tried = works_from, 0

    def __call__(self, data: bytes) -> Compiled:
        self.tried += 1
        if self.tried < self.works_from:
            raise OSError(errno.EMFILE, "too many open files")
        return compile_here(data)


def test_what_was_refused_is_tried_again_but_not_at_every_look(tmp_path: Path) -> None:
    serving, failing = Serving(), Failing(works_from=3)

    async def scene() -> None:
        blobs = LocalBlobStore(tmp_path / "blobs")
        await blobs.open()
        await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v1", 1))
        reloader = Reloader(serving, blobs, tmp_path / "models", 250, compiler=failing)
        for tried in (1, 2):
            for _ in range(3):
                assert not await reloader.poll_snapshot()
            assert failing.tried == tried
            await asyncio.sleep(RETRY_SECONDS + 1.0)
        assert await reloader.poll_snapshot()
        assert serving.current is not None
        await asyncio.sleep(RETRY_SECONDS + 1.0)
        assert not await reloader.poll_snapshot()  # it serves: nothing is to be tried again
        await blobs.close()

    simulated.run(scene(), ManualClock())
    assert failing.tried == 3


async def test_who_is_paused_stops_while_a_snapshot_is_compiled(tmp_path: Path) -> None:
    blobs, serving, slow = LocalBlobStore(tmp_path / "blobs"), Serving(), Slow()
    await blobs.open()
    reloader = Reloader(serving, blobs, tmp_path / "models", 10, compiler=slow)
    await tell(blobs, "v1", 1, 10, 11)
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v1", 1))
    await reloader.start()
    assert alive(serving) == [10, 11]
    slow.waits = True
    await tell(blobs, "v2", 2, 11)
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(Status.PAUSED), "v2", 2))
    async with asyncio.timeout(60.0):
        while not slow.compiling.is_set() or alive(serving) != [11]:
            await asyncio.sleep(0.01)
        assert serving.current is not None
        assert serving.current.served.snapshot.version == "v1"
        await tell(blobs, "v2", 3, 10)  # one is resumed, and waits for the snapshot; the other is paused
        while alive(serving):
            await asyncio.sleep(0.01)
        slow.go_on.set()
        while serving.current.served.snapshot.version == "v1":
            await asyncio.sleep(0.01)
    assert alive(serving) == [10]
    await reloader.stop()
    await blobs.close()


async def test_controls_are_followed_while_a_snapshot_is_compiled(tmp_path: Path) -> None:
    blobs, serving, slow = LocalBlobStore(tmp_path / "blobs"), Serving(), Slow()
    await blobs.open()
    reloader = Reloader(serving, blobs, tmp_path / "models", 10, compiler=slow)
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v1", 1))
    await reloader.start()
    slow.waits = True
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v2", 2))
    async with asyncio.timeout(60.0):
        while not slow.compiling.is_set():
            await asyncio.sleep(0.01)
        controls = Controls(at_ms=5, line_items={10: Control(multiplier=0.5)})
        await blobs.put(PACED_BLOB, columns.encode(paced(controls)))
        while serving.current is None or serving.current.controls_at_ms != 5:
            await asyncio.sleep(0.01)
        assert serving.current.served.snapshot.version == "v1"
        slow.go_on.set()
        while serving.current.served.snapshot.version == "v1":
            await asyncio.sleep(0.01)
    assert serving.current.controls.multiplier.tolist() == [0.5, 1.0]
    await reloader.stop()
    await blobs.close()


async def test_what_comes_late_lets_nobody_bid_who_is_paused(tmp_path: Path) -> None:
    blobs, serving = LocalBlobStore(tmp_path / "blobs"), Serving()
    await blobs.open()
    reloader = Reloader(serving, blobs, tmp_path / "models", 10)
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v2", 2))
    await tell(blobs, "v2", 3, 11)
    await reloader.poll_active()
    await reloader.poll()
    assert alive(serving) == [11]
    await tell(blobs, "v2", 2, 10, 11)
    assert not await reloader.poll_active()
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v1", 1))
    assert await reloader.poll()
    assert alive(serving) == [11]
    await blobs.put(ACTIVE_BLOB, b"nothing of the kind")
    assert not await reloader.poll_active()
    assert alive(serving) == [11]
    await blobs.close()
