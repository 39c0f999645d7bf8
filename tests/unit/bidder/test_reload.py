"""The reloader on a blob store and a registry that may be slow."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from bidder.reload import Reloader
from bidder.state import Serving
from dsp.cache.local import LocalBlobStore


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
