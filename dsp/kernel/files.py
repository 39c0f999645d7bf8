"""Files that must survive a power cut."""

import os
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file; its bytes are on the disk when this returns, its name once its folder is synced as well."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Put what a file, or the names in a folder, have become on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
