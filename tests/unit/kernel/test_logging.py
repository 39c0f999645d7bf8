"""The log: a disk that takes no more of it and a pipe that nobody reads stop nobody."""

import json
import logging as standard
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsp.kernel import logging, metrics

#: Longer than a process may take that logs more than the pipe and the queue hold, however busy the machine is.
_SECONDS_MAX = 60.0
_TALKS = """
from dsp.kernel import logging, metrics
logging.configure("test")
for number in range(4 * logging.LINES_MAX):
    logging.get("talks").error("line", number=number)
print(int(metrics.LOG_LINES_LOST._value.get()))
"""
_DIES = """
from dsp.kernel import logging
logging.configure("test")
logging.get("dies").error("last")
raise SystemExit(3)
"""


def told_of(work: Callable[[], None], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what logs, with standard error in a file."""
    with path.open("w", encoding="utf-8") as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", file)
        logging.configure("test")
        work()
        assert logging.drain(_SECONDS_MAX)


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complain() -> None:
        logging.get(__name__).error("one")
        logging.get(__name__).error("two", fault="why")

    lost = metrics.LOG_LINES_LOST._value.get()
    told_of(complain, Path("/dev/full"), monkeypatch)
    assert metrics.LOG_LINES_LOST._value.get() - lost == 2
    told_of(complain, tmp_path / "log", monkeypatch)
    assert '"event": "two"' in (tmp_path / "log").read_text()
    assert metrics.LOG_LINES_LOST._value.get() - lost == 2


def test_nobody_waits_for_a_pipe_that_is_not_read() -> None:
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb") as pipe:
        talks = subprocess.run(
            [sys.executable, "-c", _TALKS], stdout=subprocess.PIPE, stderr=writes, timeout=_SECONDS_MAX, check=True
        )
        os.close(writes)
        lines = pipe.read().splitlines()
    assert int(talks.stdout) > 0
    assert [json.loads(line)["number"] for line in lines[:100]] == list(range(100))


def test_the_last_lines_of_a_process_are_written() -> None:
    ended = subprocess.run([sys.executable, "-c", _DIES], stderr=subprocess.PIPE, timeout=_SECONDS_MAX, check=False)
    assert ended.returncode == 3
    assert json.loads(ended.stderr)["event"] == "last"


def test_what_libraries_say_is_a_line_of_json_whatever_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complain() -> None:
        try:
            raise ValueError('two\nlines, and a "quotation"')
        except ValueError:
            standard.getLogger("asyncio").exception('Task of "%s" was never retrieved', "x")
        standard.getLogger("aiokafka").info("too little to be told")

    told_of(complain, tmp_path / "log", monkeypatch)
    (line,) = (tmp_path / "log").read_text().splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"], said["component"]) == ("error", "asyncio", "test")
    assert said["event"] == 'Task of "x" was never retrieved'
    assert 'ValueError: two\nlines, and a "quotation"' in said["exception"]
