"""The reloader on a blob store and a registry: another predictor is served together with what pacing makes of it."""

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from bidder import rescale
from bidder.reload import SNAPSHOT_BLOB, Reloader
from bidder.state import Scored, Serving
from dsp.cache.local import LocalBlobStore
from dsp.catalog.terms import Goal, GoalKind
from dsp.pacing.controller import CONTROLS_BLOB, Control, Controls, encode
from dsp.snapshot import codec
from models.serving.bundle import CHAMPION
from models.serving.predictor import RateTable, Scorer
from models.serving.prior import PriorPredictor
from tests.integration.bidder.world import catalogue

NOW_MS = 1_750_000_000_000
RATE = 0.01


class Constant:
    """Predicts one click rate."""

    def __init__(self, rate: float) -> None:
        self.version = f"constant-{rate}"
        self._rate = rate

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        table = RateTable(np.full(len(ads), self._rate))
        return Scorer(self.version, table, table)


def clicks() -> bytes:
    """Return a snapshot whose line items pay for clicks."""
    found = catalogue()
    goal = Goal(kind=GoalKind.CPC, target_micros=500_000)
    line_items = tuple(msgspec.structs.replace(one, goal=goal) for one in found.line_items)
    return codec.encode(msgspec.structs.replace(found, line_items=line_items), "s1", NOW_MS)


async def multipliers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: list[float], fault: Exception | None = None
) -> list[float]:
    """Return the multiplier that is served of the first line item after each champion, by its click rate."""
    serving, blobs, champions = Serving(), LocalBlobStore(tmp_path / "blobs"), [""]
    await blobs.open()

    def resolve(_: Path, alias: str) -> str | None:
        return champions[-1] or None if alias == CHAMPION else None

    def load(_: Path, version: str, __: object) -> SimpleNamespace:
        return SimpleNamespace(predictor=Constant(float(version)), prior=PriorPredictor())

    monkeypatch.setattr("dsp.registry.resolve", resolve)
    monkeypatch.setattr("models.serving.bundle.load", load)
    await blobs.put(SNAPSHOT_BLOB, clicks())
    await blobs.put(CONTROLS_BLOB, encode(Controls(at_ms=NOW_MS, line_items={10: Control(multiplier=0.2)})))
    reloader = Reloader(serving, blobs, tmp_path / "models", 1_000)
    found = []
    for rate in rates:
        champions.append(str(rate))
        assert await reloader.poll()
        assert serving.current is not None
        assert serving.current.predictor.version == f"constant-{rate}"
        found.append(float(serving.current.controls.multiplier[0]))
        served, rows = serving.current.served, np.array([0])
        serving.recent.extend(Scored(served, np.zeros(2, np.int64), rows, rows) for _ in range(100))
        if fault is not None:
            monkeypatch.setattr(rescale.Comparison, "add", lambda *_: (_ for _ in ()).throw(fault))
    await blobs.close()
    return found


def test_a_model_that_sees_ten_times_the_value_is_bid_for_as_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asyncio.run(multipliers(tmp_path, monkeypatch, [RATE, 10 * RATE, RATE]))
    assert found == pytest.approx([0.2, 0.02, 0.2], rel=0.1)


def test_a_model_that_cannot_be_compared_is_served_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asyncio.run(multipliers(tmp_path, monkeypatch, [RATE, 10 * RATE], ValueError("no rate")))
    assert found == [0.2, 0.2]


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
