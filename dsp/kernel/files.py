"""Files that must survive a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file; its bytes are on the disk when this returns, its name once its folder is synced as well."""
    with _named(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, in place of one that is there; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One draft a process: a killed one leaves at most that behind, and its successor overwrites or ignores it.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write_synced(draft, data)
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Put what a file, or the names in a folder, have become on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let a fault say which file it is about, as that of a full disk does not."""
    try:
        yield
    except OSError as fault:
        fault.filename = fault.filename or str(path)
        raise
