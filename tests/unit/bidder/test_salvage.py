"""Places on disk: locked by the living, emptied for the dead, and nothing is lost when the event log is away."""

import asyncio
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from bidder.salvage import Place, Salvage
from bidder.spill import Spill
from dsp.events.topics import Topic
from dsp.kernel.clock import SystemClock
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.stream.port import Entry
from tests.unit.bidder.fakes import FakeLog
from tests.waiting import until

CLOCK = SystemClock()


async def leave(path: Path, *values: int) -> Place:
    place = Place(path, CLOCK)
    await place.open()
    spill = Spill(place.store, Topic.NOTICES, 100)
    await spill.open()
    await spill.put([Entry("k", bytes([value])) for value in values], [None] * len(values))
    return place


async def test_what_the_dead_left_is_handed_over_and_the_living_keep_theirs(tmp_path: Path) -> None:
    await (await leave(tmp_path / "dead", 1, 2, 3)).close()
    living = await leave(tmp_path / "living", 4)
    own = await leave(tmp_path / "own", 5)
    (tmp_path / "no place").touch()
    log = FakeLog()
    salvage = Salvage(own.path, CLOCK, log, [Topic.NOTICES, Topic.DECISIONS])
    await salvage.look()
    assert [entry.value[0] for entry in log.appended["notices"]] == [1, 2, 3]
    assert not (tmp_path / "dead").exists()
    assert living.path.exists()
    await living.close()
    await salvage.look()
    assert [entry.value[0] for entry in log.appended["notices"]] == [1, 2, 3, 4]
    await own.close()


async def test_while_the_event_log_is_away_the_place_is_kept(tmp_path: Path) -> None:
    await (await leave(tmp_path / "dead", 1, 2)).close()
    log = FakeLog(away=True)
    salvage = Salvage(tmp_path / "own", CLOCK, log, [Topic.NOTICES])
    with pytest.raises(UnavailableError):
        await salvage.look()
    log.away = False
    await salvage.look()
    assert [entry.value[0] for entry in log.appended["notices"]] == [1, 2]
    assert not (tmp_path / "dead").exists()


async def test_a_place_that_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    await (await leave(tmp_path / "broken", 1)).close()
    (broken,) = (tmp_path / "broken").glob("notices*.db")
    broken.write_bytes(b"not a database" * 100)
    await (await leave(tmp_path / "dead", 2)).close()
    log = FakeLog()
    with pytest.raises(UnavailableError):
        await Salvage(tmp_path / "own", CLOCK, log, [Topic.NOTICES]).look()
    assert [entry.value[0] for entry in log.appended["notices"]] == [2]
    assert broken.exists()


async def test_it_looks_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bidder.salvage.LOOK_SECONDS", 0.01)
    own = await leave(tmp_path / "own")
    log = FakeLog(away=True)
    salvage = Salvage(own.path, CLOCK, log, [Topic.NOTICES])
    await salvage.start()
    for number in (1, 2):
        await (await leave(tmp_path / f"dead {number}", number)).close()
        await asyncio.sleep(0.05)
        log.away = False
        await until(lambda number=number: len(log.appended.get("notices", [])) == number)  # type: ignore[misc]
    await salvage.stop()
    await (await leave(tmp_path / "dead 3", 3)).close()
    await asyncio.sleep(0.05)
    assert [entry.value[0] for entry in log.appended["notices"]] == [1, 2]
    await own.close()


async def test_a_place_has_one_holder_and_who_asks_in_vain_keeps_nothing_open(tmp_path: Path) -> None:
    place = Place(tmp_path / "a", CLOCK)
    await place.open()
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConflictError):
        await Place(tmp_path / "a", CLOCK).open()
    with pytest.raises(UnavailableError):
        await Place(tmp_path / "file", CLOCK).open()
    assert len(os.listdir("/proc/self/fd")) == before
    await place.close()
    again = Place(tmp_path / "a", CLOCK)
    await again.open()
    await again.close()


async def test_a_place_that_is_cleared_away_while_it_is_opened_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder has emptied and removed it between the two: the lock is on a file that nobody finds any more."""

    def clear(descriptor: int, operation: int) -> None:
        shutil.rmtree(tmp_path / "a")
        monkeypatch.undo()
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", clear)
    place = Place(tmp_path / "a", CLOCK)
    with pytest.raises(ConflictError):
        await place.open()
    await place.open()
    with pytest.raises(ConflictError):
        await Place(tmp_path / "a", CLOCK).open()
    await place.close()
