"""The clock that drills set: processes see it move, and nothing else of theirs changes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.cluster.clock import Clock

#: Tells the wall time by both functions and the monotonic time whenever a line comes in.
_TELL = (
    "import sys, time\n"
    "for line in sys.stdin:\n"
    "    time.sleep(0.6)\n"
    "    print(time.time_ns() / 1e9, time.time(), time.monotonic(), flush=True)\n"
)


def test_a_running_process_sees_the_clock_set_ahead_and_back(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _TELL],
        env={**os.environ, **clock.settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds in (0, 300, -60, 0):
            clock.ahead(seconds)
            process.stdin.write("\n")
            process.stdin.flush()
            in_ns, in_seconds, monotonic = map(float, process.stdout.readline().split())
            assert abs(in_ns - time.time() - seconds) < 5.0
            assert abs(in_seconds - in_ns) < 1.0
            assert abs(monotonic - time.monotonic()) < 5.0
        process.stdin.close()


def test_what_the_caller_has_on_the_path_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/caller")
    first, last = Clock(tmp_path).settings["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "sitecustomize.py").is_file()
    assert last == "/of/the/caller"
