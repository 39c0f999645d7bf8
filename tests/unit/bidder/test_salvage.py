"""Places on disk: locked by the living, emptied for the dead, and nothing is lost when the event log is away."""

from pathlib import Path

import pytest

from bidder.salvage import Place, Salvage
from bidder.spill import Spill
from dsp.events.topics import Topic
from dsp.kernel.clock import SystemClock
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry, EventLog
from tests.unit.bidder.fakes import FakeLog


def store(path: Path) -> EventLog:
    return LocalEventLog(path, SystemClock())


async def leave(path: Path, *values: int) -> Place:
    place = Place(path, store)
    await place.open()
    spill = Spill(place.store, Topic.NOTICES, 100)
    await spill.open()
    await spill.put([Entry("k", bytes([value])) for value in values], [None] * len(values))
    return place


async def test_what_the_dead_left_is_handed_over_and_the_living_keep_theirs(tmp_path: Path) -> None:
    await (await leave(tmp_path / "dead", 1, 2, 3)).close()
    living = await leave(tmp_path / "living", 4)
    own = await leave(tmp_path / "own", 5)
    log = FakeLog()
    salvage = Salvage(own.path, store, log, [Topic.NOTICES, Topic.DECISIONS])
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
    salvage = Salvage(tmp_path / "own", store, log, [Topic.NOTICES])
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
        await Salvage(tmp_path / "own", store, log, [Topic.NOTICES]).look()
    assert [entry.value[0] for entry in log.appended["notices"]] == [2]
    assert broken.exists()


async def test_a_place_has_one_holder(tmp_path: Path) -> None:
    place = Place(tmp_path / "a", store)
    await place.open()
    with pytest.raises(ConflictError):
        await Place(tmp_path / "a", store).open()
    await place.close()
    again = Place(tmp_path / "a", store)
    await again.open()
    await again.close()
