"""The demo's data directory: nobody else's files are removed, and one demo at a time has it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsp.kernel import locks
from dsp.supervise import LOCK_FILE
from loadtest.platform import LOGS, PlatformError

#: Held from before the directory is emptied until the report is written.
DEMO_LOCK = "demo.lock"


@contextmanager
def taken(directory: Path) -> Iterator[None]:
    """Have a directory to oneself until the block ends, emptied of what an earlier demo has left.

    Raises:
        PlatformError: it holds something else, or another demo or platform runs in it; it is left as it was.
    """
    found = {one.name for one in directory.iterdir()} if directory.exists() else set()
    if found and found.isdisjoint({DEMO_LOCK, LOGS}):  # a platform's data directory has neither
        raise PlatformError(f"{directory} holds something that no demo has put there; name another with --dir")
    directory.mkdir(parents=True, exist_ok=True)
    held = locks.lock(directory / DEMO_LOCK)
    if held is None:
        raise PlatformError(f"another demo runs in {directory}; wait for its end, or name another with --dir")
    try:
        _refuse_running(directory)
        _empty(directory)
        yield
    finally:
        os.close(held)


def _refuse_running(directory: Path) -> None:
    """A platform may have been started on what a demo left, or may be ending after a demo that was killed."""
    lock = directory / LOCK_FILE
    if not lock.exists():
        return
    held = locks.lock(lock)
    if held is None:
        raise PlatformError(f"another platform runs in {directory}; stop it first")
    os.close(held)


def _empty(directory: Path) -> None:
    for one in directory.iterdir():
        if one.name == DEMO_LOCK:
            continue
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()
