"""A process that appends is killed: every record it was told is durable is there, once, in order."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.stream.connect import event_log

WRITER = """
import asyncio, sys
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.stream.connect import event_log
from dsp.stream.port import Entry

async def append(log, writer, first):
    number = first
    while True:
        value = f"{writer}-{number}"
        await log.append("notices", [Entry(writer, value.encode()), Entry(writer, (value + "b").encode())])
        print(value, flush=True)
        number += 1

async def main():
    log = event_log(Platform(data_dir=sys.argv[1], stream_url=sys.argv[2]), SystemClock())
    await log.open()
    await asyncio.gather(*(append(log, f"{sys.argv[3]}.{lane}", 0) for lane in range(4)))

asyncio.run(main())
"""


@pytest.mark.platform
@pytest.mark.parametrize("kind", ["local", "kafka"])
async def test_killed_writers_lose_nothing_that_was_acknowledged(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    url = request.getfixturevalue("kafka") if kind == "kafka" else ""
    processes = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", WRITER, str(tmp_path), url, str(name)], stdout=subprocess.PIPE, text=True
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
    partitions = await _values(tmp_path, url)
    values = [value for mine in partitions.values() for value in mine]
    assert len(acknowledged) >= 300
    assert len(set(values)) == len(values)
    assert {text for value in acknowledged for text in (value, value + "b")} <= set(values)
    lanes = {value.split("-")[0] for value in values}
    for lane in lanes:
        numbers = [int(value.split("-")[1]) for value in values if value.startswith(f"{lane}-") and value[-1] != "b"]
        assert numbers == list(range(len(numbers)))
    # An append of two with one key is whole or absent, and nothing comes between its entries.
    for mine in partitions.values():
        assert all(mine[index + 1] == f"{value}b" for index, value in enumerate(mine) if value[-1] != "b")


async def _values(directory: Path, url: str) -> dict[int, list[str]]:
    log = event_log(Platform(data_dir=str(directory), stream_url=url), SystemClock())
    await log.open()
    values: dict[int, list[str]] = {}
    position: dict[int, int] = {}
    async with asyncio.timeout(90):
        while True:
            batch = await log.read("notices", position, 1_000)
            for record in batch.records:
                values.setdefault(record.partition, []).append(record.value.decode())
            position = batch.position
            if batch.end:
                break
    await log.close()
    return values
