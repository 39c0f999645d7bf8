"""The reloader on a blob store and a registry that may be slow, and snapshots that take their time."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from bidder.reload import SNAPSHOT_BLOB, Reloader
from bidder.state import Serving
from dsp.cache.local import LocalBlobStore
from dsp.catalog.status import Status
from dsp.snapshot import active, codec
from dsp.snapshot.active import ACTIVE_BLOB
from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap
from tests.integration.bidder.world import catalogue


async def test_a_registry_on_a_slow_volume_holds_up_no_bid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def resolve(_: Path, __: str) -> str | None:
        asked.set()
        time.sleep(0.2)
        return None

    monkeypatch.setattr("dsp.registry.resolve", resolve)
    blobs = LocalBlobStore(tmp_path / "blobs")
    await blobs.open()
    polling = asyncio.create_task(Reloader(Serving(), blobs, tmp_path / "models", 100).poll())
    turns = 0
    while not polling.done():
        await asyncio.sleep(0.01)
        turns += asked.is_set()
    assert turns > 10  # on the loop there would be one or two for each alias
    await blobs.close()


def alive(serving: Serving) -> list[int]:
    """Return the line items that auctions take for active."""
    assert serving.current is not None
    snapshot = serving.current.served.snapshot
    return snapshot.line_item_ids[bitmap.positions(snapshot.index.active)].tolist()  # type: ignore[no-any-return]


async def tell(blobs: LocalBlobStore, snapshot: str, revision: int, *line_item_ids: int) -> None:
    await blobs.put(ACTIVE_BLOB, active.encode(line_item_ids, snapshot, revision, revision))


async def test_who_is_paused_stops_while_a_snapshot_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, go_on, decode = threading.Event(), threading.Event(), codec.decode

    def slowly(data: bytes) -> Snapshot:
        compiling.set()
        go_on.wait(10.0)
        return decode(data)

    blobs, serving = LocalBlobStore(tmp_path / "blobs"), Serving()
    await blobs.open()
    reloader = Reloader(serving, blobs, tmp_path / "models", 10)
    await tell(blobs, "v1", 1, 10, 11)
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(), "v1", 1))
    await reloader.start()
    assert alive(serving) == [10, 11]
    monkeypatch.setattr(codec, "decode", slowly)
    await tell(blobs, "v2", 2, 11)
    await blobs.put(SNAPSHOT_BLOB, codec.encode(catalogue(Status.PAUSED), "v2", 2))
    async with asyncio.timeout(10.0):
        while not compiling.is_set() or alive(serving) != [11]:
            await asyncio.sleep(0.01)
        assert serving.current is not None
        assert serving.current.served.snapshot.version == "v1"
        await tell(blobs, "v2", 3, 10)  # one is resumed, and waits for the snapshot; the other is paused
        while alive(serving):
            await asyncio.sleep(0.01)
        go_on.set()
        while serving.current.served.snapshot.version == "v1":
            await asyncio.sleep(0.01)
    assert alive(serving) == [10]
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
