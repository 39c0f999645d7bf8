"""The embedded blob store: one file a name, replaced by atomic rename; the version is a hash of the content."""

import asyncio
import hashlib
import io
import os
import re
import threading
from pathlib import Path

from dsp.kernel.errors import UnavailableError
from dsp.kernel.files import write_synced

#: Read at a time: a call for all of a large blob would keep whoever answers meanwhile waiting.
_PIECE_BYTES = 1 << 18
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")

#: What tells, without reading a file, that it is not the one read before: a replaced file has another inode.
_Stamp = tuple[int, int, int, int]


class LocalBlobStore:
    """Implements dsp.cache.port.BlobStore on files in one directory, shared by the processes of one machine.

    A file is never written in place, so a reader's open file is always whole. Putting equal bytes again is no change.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[_Stamp, str]] = {}
        self._writing = threading.Lock()

    async def open(self) -> None:
        """Do nothing: the directory is made when something is published."""

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    async def put(self, name: str, data: bytes) -> None:
        """Publish atomically; after a power cut there may be what was there before, whole."""
        path = self._path(name)
        try:
            await asyncio.to_thread(self._replace, path, data)
        except OSError as fault:
            raise UnavailableError(f"blob {name}: {fault}") from fault

    async def get(self, name: str, seen: str = "") -> tuple[str, bytes] | None:
        """Return (version, bytes), or None when nothing newer than the version `seen` is there."""
        path = self._path(name)
        try:
            if self._seen.get(name) == (_stamp(path.stat()), seen):  # too quick to be worth a thread
                await asyncio.sleep(0)  # whoever asks in a loop lets others have their turn
                return None
            return await asyncio.to_thread(self._read, path, seen)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise UnavailableError(f"blob {name}: {fault}") from fault

    async def has(self, name: str) -> bool:
        """Return whether anything is published under the name."""
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self._directory / checked_name(name)

    def _replace(self, path: Path, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        # One draft a process: a killed one leaves at most that behind, and its successor overwrites or ignores it.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with self._writing:
            write_synced(draft, data)
            draft.replace(path)

    def _read(self, path: Path, seen: str) -> tuple[str, bytes] | None:
        data, digest = io.BytesIO(), hashlib.sha256()
        with path.open("rb", 0) as file:
            stamp = _stamp(os.fstat(file.fileno()))
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                data.write(piece)
        version = digest.hexdigest()[:16]
        self._seen[path.name] = (stamp, version)
        return None if version == seen else (version, data.getvalue())


def checked_name(name: str) -> str:
    """Return a blob's name; raises ValueError where it is none that every store can keep."""
    if not _NAME.match(name):
        raise ValueError(f"not a blob's name: {name!r}")
    return name


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
