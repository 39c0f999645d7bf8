"""The loop's thread comes before the process's others where the system lets it, and nothing else changes."""

import os
import subprocess
import sys

import pytest

from tests.priority import may_precede

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")

#: Prints what `precede` returns, and the priorities of its thread, of one that this one starts, and of a child.
_PROGRAM = """
import os, resource, sys, threading
from bidder.priority import precede
os.nice(int(sys.argv[1]))
if sys.argv[2] == "refused":
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    if os.geteuid() == 0:
        os.setuid(65_534)
def own():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
found = [precede(-10), own()]
other = threading.Thread(target=lambda: found.append(own()))
other.start()
other.join()
child = os.fork()
if child == 0:
    os._exit(20 + own())
print(*found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 20)
"""


def _priorities(yields: int, permission: str) -> list[int]:
    command = [sys.executable, "-c", _PROGRAM, str(yields), permission]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in run.stdout.split()]


def test_the_loops_thread_alone_has_it() -> None:
    if not may_precede():
        pytest.skip("this account may not raise a priority, or was told to yield")
    assert _priorities(0, "allowed") == [-10, -10, 0, 0]


def test_without_permission_nothing_changes() -> None:
    assert _priorities(0, "refused") == [os.nice(0)] * 4


def test_a_priority_from_outside_stays() -> None:
    assert _priorities(1, "allowed") == [min(os.nice(0) + 1, 19)] * 4
