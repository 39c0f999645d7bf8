"""Files that one process at a time holds."""

import fcntl
import os
from pathlib import Path


def lock(path: Path) -> int | None:
    """Return the descriptor of a file that this process has locked until it is closed, None while another has.

    The lock goes with the process, however that ends. The file is made where there is none.

    Raises:
        OSError: it cannot be opened or made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lock_folder(path: Path) -> int | None:
    """Return what `lock` returns of a file in a folder, which is made where there is none."""
    path.mkdir(parents=True, exist_ok=True)
    return lock(path / ".lock")
