"""Published blobs in Redis or Valkey: a hash each, of the version and the bytes; the version is a hash of the content.

Followers poll: a comparison of versions costs a server microseconds, and a change is seen at the next look.
"""

import hashlib
from typing import Any

from redis.exceptions import ResponseError

from dsp.cache.local_blobs import checked_name
from dsp.cache.redis_connection import Command
from dsp.cache.redis_nodes import Nodes, tag
from dsp.kernel.errors import UnavailableError

TIMEOUT_MS = 5_000
_VERSION, _DATA = "version", "data"


class RedisBlobStore:
    """Implements dsp.cache.port.BlobStore. Putting equal bytes again is no change."""

    def __init__(self, url: str) -> None:
        self._nodes = Nodes(url, TIMEOUT_MS)

    async def open(self) -> None:
        """Look for the servers; those away are looked for in the background."""
        await self._nodes.open()

    async def close(self) -> None:
        """Release connections."""
        await self._nodes.close()

    async def put(self, name: str, data: bytes) -> None:
        """Publish atomically."""
        version = hashlib.sha256(data).hexdigest()[:16]
        await self._run("HSET", name, _VERSION, version, _DATA, data)

    async def get(self, name: str, seen: str = "") -> tuple[str, bytes] | None:
        """Return (version, bytes), or None when nothing newer than the version `seen` is there."""
        version = await self._run("HGET", name, _VERSION)
        if version is None or version.decode() == seen:
            return None
        version, data = await self._run("HMGET", name, _VERSION, _DATA)  # one command: never a mixture
        return None if version is None else (version.decode(), data)

    async def has(self, name: str) -> bool:
        """Return whether anything is published under the name."""
        return bool(await self._run("EXISTS", name))

    async def _run(self, command: str, name: str, *arguments: str | bytes) -> Any:
        key = f"dsp:{tag(0)}:blob:{checked_name(name)}"
        call: Command = (command, key, *arguments)
        (reply,) = (await self._nodes.run({0: [call]}))[0]
        if isinstance(reply, ResponseError):
            raise UnavailableError(f"blob {name}: {reply}") from reply
        return reply
