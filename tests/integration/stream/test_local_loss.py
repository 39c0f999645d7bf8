"""The embedded event log where a file of it was lost: nothing that comes afterwards is passed over."""

from pathlib import Path

from dsp.kernel.clock import ManualClock
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry, Position


async def test_who_reads_on_in_a_new_file_misses_nothing_of_it(tmp_path: Path) -> None:
    clock = ManualClock()

    async def append(count: int, position: Position) -> tuple[int, Position]:
        log = LocalEventLog(tmp_path, clock, "NORMAL")
        await log.open()
        await log.append("notices", [Entry("key", b"value")] * count)
        batch = await log.read("notices", position, 10_000)
        await log.close()
        return len(batch.records), batch.position

    read, position = await append(500, {})
    assert read == 500
    for path in [*tmp_path.glob("notices.db*")]:  # noqa: ASYNC240
        path.unlink()
    clock.advance(1_000)
    read, position = await append(1, position)
    assert read == 1  # it did not wait for the new file to grow to where the lost one had ended
    assert (await append(600, position))[0] == 600
