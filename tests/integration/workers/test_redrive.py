"""An operator looks at parked records, brings them in again where that helps, and leaves the others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dsp.__main__ import main
from dsp.events.topics import Topic
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import InputError
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry, Record
from dsp.workers import redrive
from dsp.workers.dead_letters import VALUE_BYTES_MAX, Poison, park


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[LocalEventLog]:
    made = LocalEventLog(tmp_path / "log", ManualClock())
    await made.open()
    yield made
    await made.close()


async def parked(log: LocalEventLog, offset: int, value: bytes = b"\xc1") -> None:
    await park(log, Topic.NOTICES, "ledger", [Poison(Record(2, offset, 60, f"key-{offset}", value), "why")])


async def test_open_letters_are_those_that_nobody_has_dealt_with(log: LocalEventLog) -> None:
    assert (await redrive.find(log)).letters == {}
    for offset in (7, 8, 7):
        await parked(log, offset)
    await log.append(Topic.DEAD_LETTERS, [Entry("k", b"no letter")])
    found = await redrive.find(log)
    assert list(found.letters) == ["notices/2/7", "notices/2/8"]
    assert not found.more
    await redrive.leave(log, found)
    assert (await redrive.find(log)).letters == {}
    await parked(log, 9)
    assert list((await redrive.find(log)).letters) == ["notices/2/9"]


async def test_many_are_taken_in_turns(log: LocalEventLog) -> None:
    for offset in range(130):
        await parked(log, offset)
    seen: list[str] = []
    while True:
        found = await redrive.find(log, limit=40)
        seen += found.letters
        await redrive.leave(log, found)
        if not found.more:
            break
    assert seen == [f"notices/2/{offset}" for offset in range(130)]


async def test_a_record_comes_again_as_it_was(log: LocalEventLog) -> None:
    await parked(log, 7, b"what it was")
    await redrive.replay(log, list((await redrive.find(log)).letters.values()))
    (record,) = (await log.read(Topic.NOTICES, {}, 10)).records
    assert (record.key, record.value) == ("key-7", b"what it was")


async def test_what_was_cut_off_is_not_brought_in(log: LocalEventLog) -> None:
    await parked(log, 7, b"whole")
    await parked(log, 8, b"x" * (VALUE_BYTES_MAX + 1))
    with pytest.raises(InputError, match="notices/2/8"):
        await redrive.replay(log, list((await redrive.find(log)).letters.values()))
    assert not (await log.read(Topic.NOTICES, {}, 10)).records


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DSP_PLATFORM_DATA_DIR", str(tmp_path))

    async def fill() -> None:
        log = LocalEventLog(tmp_path / "log", ManualClock())
        await log.open()
        await parked(log, 7, b"seven")
        await parked(log, 8, b"eight")
        await log.close()

    asyncio.run(fill())
    capsys.readouterr()  # what parking logs
    assert main(["dead-letters", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "notices/2/7  1970-01-01T00:00:00+00:00  ledger: why",
        "notices/2/8  1970-01-01T00:00:00+00:00  ledger: why",
        "2 open",
    ]
    assert main(["dead-letters", "show", "notices/2/8"]) == 0
    assert "value b'eight'" in capsys.readouterr().out
    assert main(["dead-letters", "show", "notices/2/9"]) == 1
    assert main(["dead-letters", "drop", "notices/2/8"]) == 1
    capsys.readouterr()
    assert main(["dead-letters", "replay", "notices/2/8"]) == 0  # by itself it stays open
    assert main(["dead-letters", "replay"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 brought in again"
    assert main(["dead-letters", "list"]) == 0
    assert capsys.readouterr().out == "0 open\n"
