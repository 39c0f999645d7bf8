"""Files that appear whole or not at all, and survive a power cut."""

import os
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Write a file, in place of one that is there; its folder is made where it is missing. It is on disk afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
