"""Stand-ins that a test passes in: an event log whose answers the test decides, and a user store in memory."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from dsp.catalog.exposures import counted
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.kernel.errors import UnavailableError
from dsp.stream.port import Assignment, Batch, Entry, Position


@dataclass
class FakeLog:
    """Keeps what is appended. `away` makes it fail; `gate`, while cleared, makes it wait."""

    appended: dict[str, list[Entry]] = field(default_factory=dict)
    batches: int = 0
    away: bool = False
    fault: BaseException | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.fault is not None:
            raise self.fault
        if self.away:
            raise UnavailableError("away")
        self.batches += 1
        self.appended.setdefault(topic, []).extend(entries)
        return self.batches

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        return Batch([], position, True, {})

    async def assignment(self, topic: str, group: str) -> Assignment:
        return Assignment(frozenset({0}), 1)

    async def identity(self, topic: str) -> str:
        return "fake"

    async def committed(self, topic: str, group: str) -> Position:
        return {}

    async def commit(self, topic: str, group: str, position: Position) -> None: ...

    async def lag(self, topic: str, position: Position) -> int:
        return 0

    async def tail(self, topic: str, count: int) -> Position:
        return {}

    async def trim(self, topic: str, before_ms: int, position: Position | None = None) -> int:
        return 0


@dataclass
class FakeUsers:
    """Counts exposures by user, once per bid id. `silent` makes it hang, for so many seconds or for good."""

    records: dict[str, UserRecord] = field(default_factory=dict)
    away: bool = False
    silent: float = 0.0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def get(self, user_key: str) -> UserRecord | Awaitable[UserRecord | None] | None:
        if self.away:
            raise UnavailableError("away")
        record = self.records.get(user_key)
        return asyncio.sleep(self.silent, record) if self.silent else record

    def expose(self, user_key: str, exposure: Exposure) -> Awaitable[None] | None:
        if self.away:
            raise UnavailableError("away")
        if self.silent:
            return asyncio.sleep(self.silent)
        record = self.records.get(user_key, UserRecord())
        self.records[user_key] = msgspec.structs.replace(record, exposures=counted(record.exposures, exposure))
        return None

    def respond(self, user_key: str, response: Response) -> Awaitable[None] | None:
        if self.away:
            raise UnavailableError("away")
        if self.silent:
            return asyncio.sleep(self.silent)
        record = self.records.get(user_key, UserRecord())
        self.records[user_key] = msgspec.structs.replace(record, responses=(*record.responses, response))
        return None
