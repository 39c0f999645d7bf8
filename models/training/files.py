"""Files that appear whole or not at all, and survive a power cut."""

from pathlib import Path

from dsp.kernel.files import sync, write_synced


def replace(path: Path, data: bytes) -> None:
    """Write a file, in place of one that is there; its folder is made where it is missing. It is on disk afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    write_synced(draft, data)
    draft.replace(path)
    sync(path.parent)
