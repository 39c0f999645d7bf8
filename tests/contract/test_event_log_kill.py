"""A process that appends is killed: every record it was told is durable is there, once, in order."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsp.kernel.clock import SystemClock
from dsp.stream.local import LocalEventLog

WRITER = """
import asyncio, sys
from pathlib import Path
from dsp.kernel.clock import SystemClock
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry

async def append(log, writer, first):
    number = first
    while True:
        value = f"{writer}-{number}"
        await log.append("notices", [Entry(value, value.encode()), Entry(value, (value + "b").encode())])
        print(value, flush=True)
        number += 1

async def main():
    log = LocalEventLog(Path(sys.argv[1]), SystemClock())
    await log.open()
    await asyncio.gather(*(append(log, f"{sys.argv[2]}.{lane}", 0) for lane in range(4)))

asyncio.run(main())
"""


@pytest.mark.platform
async def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", WRITER, str(tmp_path), str(name)], stdout=subprocess.PIPE, text=True
        )
        for name in range(2)
    ]
    acknowledged: list[str] = []
    try:
        for process in processes:
            assert process.stdout is not None
            acknowledged += [process.stdout.readline().strip() for _ in range(150)]
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            rest, _ = process.communicate()
            # The last line may be cut off; it was not acknowledged then.
            acknowledged += [line for line in rest.split("\n")[:-1] if line]
    values = await _values(tmp_path)
    assert len(acknowledged) >= 300
    assert len(set(values)) == len(values)
    assert {text for value in acknowledged for text in (value, value + "b")} <= set(values)
    lanes = {value.split("-")[0] for value in values}
    for lane in lanes:
        numbers = [int(value.split("-")[1]) for value in values if value.startswith(f"{lane}-") and value[-1] != "b"]
        assert numbers == list(range(len(numbers)))
    # An append of two is whole or absent, and nothing comes between its entries.
    assert all(values[index + 1] == f"{value}b" for index, value in enumerate(values) if value[-1] != "b")


async def _values(directory: Path) -> list[str]:
    log = LocalEventLog(directory, SystemClock())
    await log.open()
    values: list[str] = []
    position: dict[int, int] = {}
    async with asyncio.timeout(30):
        while True:
            batch = await log.read("notices", position, 1_000)
            values += [record.value.decode() for record in batch.records]
            position = batch.position
            if batch.end:
                break
    await log.close()
    return values
