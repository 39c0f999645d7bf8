"""Work in several processes: results in order, and nothing left running, whatever ended it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsp.kernel.errors import DspError
from dsp.kernel.processes import side_by_side
from tests.waiting import alive, eventually

#: Longer than any of these tests takes: who sleeps so long was ended.
FOREVER_SECONDS = 600.0
SCRIPT = """
import sys
from dsp.kernel.processes import side_by_side
from tests.unit.kernel.test_processes import sleep
if __name__ == "__main__":
    list(side_by_side(sleep, [sys.argv[1]] * 3, 2))
"""


def place(seconds: float) -> tuple[float, int]:
    time.sleep(seconds)
    return seconds, os.getpid()


def fail(number: int) -> None:
    if number == 1:
        raise ValueError("one of them failed")
    time.sleep(FOREVER_SECONDS)


def die(number: int) -> None:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(FOREVER_SECONDS)


def sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(FOREVER_SECONDS)


def test_results_come_in_order_from_other_processes() -> None:
    found = list(side_by_side(place, [0.3, 0.2, 0.1, 0.0], 2))
    assert [seconds for seconds, _ in found] == [0.3, 0.2, 0.1, 0.0]
    assert os.getpid() not in {pid for _, pid in found}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("items", "processes"), [([0.0, 0.0], 1), ([0.0], 2), ([], 2)])
def test_a_single_process_is_this_one(items: list[float], processes: int) -> None:
    assert list(side_by_side(place, items, processes)) == [(0.0, os.getpid())] * len(items)


def test_one_that_fails_ends_the_others() -> None:
    with pytest.raises(ValueError, match="one of them failed"):
        list(side_by_side(fail, [1, 2, 3], 2))
    assert not multiprocessing.active_children()


def test_one_that_is_killed_ends_the_others() -> None:
    with pytest.raises(DspError, match="was killed"):
        list(side_by_side(die, [1, 2, 3], 2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_none_outlives_the_one_that_asked(how: signal.Signals, tmp_path: Path) -> None:
    script, pids = tmp_path / "asks.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    pids.mkdir()
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    asking = subprocess.Popen([sys.executable, str(script), str(pids)], env=environment, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: len(list(pids.iterdir())) == 2)
        asking.send_signal(how)
        asking.wait(30)
        eventually(lambda: not any(alive(int(pid.name)) for pid in pids.iterdir()))
    finally:
        asking.kill()
