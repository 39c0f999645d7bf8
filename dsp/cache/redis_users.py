"""The users' records in Redis or Valkey, shared by all bidder processes: one MessagePack record a user.

A record ends when no cap's window reaches it any more. Whether records are whole is written beside them, in each shard:
how far of the event log they contain. It is written only by who has read the log to its end, so a server that lost its
data answers that nothing is known for certain until the log was read again, and what has caps does not bid.
Nothing is cached here: another process may count the same user at any moment, and caps have to hold.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, cast
from zlib import crc32

import msgspec
from redis.exceptions import ResponseError

from dsp.cache.batching import Gathering
from dsp.cache.local_users import KEPT_MS_MIN, RESPONSES_MAX
from dsp.cache.port import Replay
from dsp.cache.redis_nodes import Nodes, tag
from dsp.cache.user_codec import decode
from dsp.catalog.exposures import pack
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.catalog.validate import WINDOW_SECONDS_MAX
from dsp.events.schema import Notice
from dsp.frequency.evidence import exposure_of, response_of
from dsp.kernel import metrics
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import UnavailableError

#: Everything sent to one server in one call. A bid waits far shorter; this is after what a server counts as away.
TIMEOUT_MS = 250
#: Calls under way to one shard, keys or writes in each, and items that wait for the next one to leave.
CALLS_MAX = 4
BATCH_MAX = 256
WAITING_MAX = 8_192
#: Who replays the log into the records is replaced when it was not heard of for so long.
REPLAYER_SECONDS = 10
_SCRIPT = (files("dsp.cache") / "users.lua").read_bytes()

_encode = msgspec.msgpack.Encoder().encode
_decode_position = msgspec.msgpack.Decoder(dict[int, int]).decode
_UNTOLD = UserRecord(complete=False)


class _Told(NamedTuple):
    """What notices tell of one user."""

    user_key: str
    exposures: Sequence[Exposure] = ()
    responses: Sequence[Response] = ()


class RedisUserStore:
    """Implements dsp.cache.port.ReplayedUserStore.

    Args:
        url: as `platform.cache_url`.
        user_exposures_max: of one user; beyond it the oldest are forgotten. Of all users the server forgets by itself:
            by time, and with `maxmemory-policy` volatile-ttl at its bound.
        window_ms: tells the longest window of any cap; None while that is not known, and then nothing is too old.
    """

    def __init__(
        self, url: str, user_exposures_max: int = 1_000, window_ms: Callable[[], int | None] = lambda: None
    ) -> None:
        self._nodes = Nodes(url, TIMEOUT_MS)
        self._user_exposures_max = user_exposures_max
        self._window_ms = window_ms
        self._forgotten = metrics.EXPOSURES_FORGOTTEN.labels("user")
        self._name = uuid.uuid4().hex
        shards = range(self._nodes.shards)
        self._reads = [self._gathering(self._read, shard) for shard in shards]
        self._writes = [self._gathering(self._write, shard) for shard in shards]

    async def open(self) -> None:
        """Look for the servers; those away are looked for in the background."""
        await self._nodes.open()

    async def close(self) -> None:
        """Finish what has left, and release connections."""
        for gathering in (*self._reads, *self._writes):
            await gathering.close()
        await self._nodes.close()

    def get(self, user_key: str) -> Awaitable[UserRecord | None]:
        """Return what gives the record, or None for an unknown user; concurrent calls share a call of the server's."""
        shard = self._shard(user_key)
        self._nodes.node(shard)  # raises at once where it is away
        return self._reads[shard].ask(user_key)

    def expose(self, user_key: str, exposure: Exposure) -> Awaitable[None]:
        """Count one impression, once per bid id and at the earliest time given for it."""
        return self._tell(_Told(user_key, exposures=(exposure,)))

    def respond(self, user_key: str, response: Response) -> Awaitable[None]:
        """Remember a click or conversion, once per bid id and each at the earliest time given for it."""
        return self._tell(_Told(user_key, responses=(response,)))

    async def begin_replay(self) -> Replay:
        """Return how far of the log every record contains, and whether this process is to read on."""
        key, life_ms = f"dsp:{tag(0)}:users:replayer", REPLAYER_SECONDS * MS_PER_SECOND
        took, holder = (await self._nodes.run({0: [("SET", key, self._name, "NX", "PX", life_ms), ("GET", key)]}))[0]
        ours = took is not None or holder == self._name.encode()
        gets: dict[int, Sequence[Any]] = {shard: [("GET", _position_key(shard))] for shard in range(self._nodes.shards)}
        if ours:
            gets[0] = [*gets[0], ("PEXPIRE", key, life_ms)]
        saved = [replies[0] for replies in (await self._nodes.run(gets)).values()]
        if any(not isinstance(one, bytes) for one in saved):
            return Replay({}, ours)  # a shard was never filled, or has lost its data
        positions = [_decode_position(one) for one in saved]
        least = {partition: min(one.get(partition, 0) for one in positions) for partition in positions[0]}
        return Replay(least, ours)

    async def absorb(self, notices: Iterable[Notice], position: Mapping[int, int]) -> None:
        """Count what notices read from the log tell; again is harmless."""
        exposed: dict[str, list[Exposure]] = {}
        responded: dict[str, list[Response]] = {}
        for notice in notices:
            if (found := exposure_of(notice)) is not None:
                exposed.setdefault(found[0], []).append(found[1])
            if (told := response_of(notice)) is not None:
                responded.setdefault(told[0], []).append(told[1])
        keys = dict.fromkeys([*exposed, *responded])
        users = [_Told(key, exposed.get(key, ()), responded.get(key, ())) for key in keys]
        await asyncio.gather(*(self._writes[self._shard(one.user_key)].ask(one) for one in users))

    async def end_replay(self, position: Mapping[int, int]) -> None:
        """Write down that the records contain the log up to `position`, which is its end."""
        value = _encode(dict(position))
        await self._nodes.run({shard: [("SET", _position_key(shard), value)] for shard in range(self._nodes.shards)})

    def _gathering(
        self, send: Callable[[int, Sequence[Any]], Awaitable[Sequence[Any]]], shard: int
    ) -> Gathering[Any, Any]:
        return Gathering(lambda items: send(shard, items), CALLS_MAX, BATCH_MAX, WAITING_MAX)

    def _tell(self, told: _Told) -> Awaitable[None]:
        shard = self._shard(told.user_key)
        self._nodes.node(shard)
        return self._writes[shard].ask(told)

    def _shard(self, user_key: str) -> int:
        return crc32(user_key.encode()) % self._nodes.shards if self._nodes.shards > 1 else 0

    async def _read(self, shard: int, user_keys: Sequence[str]) -> Sequence[UserRecord | None]:
        wanted = dict.fromkeys(user_keys)  # each once
        keys = [_user_key(shard, one) for one in wanted]
        (reply,) = (await self._nodes.run({shard: [("MGET", _position_key(shard), *keys)]}))[shard]
        whole, *values = _checked(reply)
        if whole is None:
            return [_UNTOLD] * len(user_keys)
        records = {key: value if value is None else decode(value) for key, value in zip(wanted, values, strict=True)}
        return [records[key] for key in user_keys]

    async def _write(self, shard: int, users: Sequence[_Told]) -> Sequence[None]:
        window_ms = self._window_ms()
        kept_ms = -1 if window_ms is None else max(window_ms, KEPT_MS_MIN)
        bounds = (self._user_exposures_max, RESPONSES_MAX, kept_ms)
        life_ms = WINDOW_SECONDS_MAX * MS_PER_SECOND if window_ms is None else kept_ms
        calls = [
            (
                "EVAL",
                _SCRIPT,
                1,
                _user_key(shard, one.user_key),
                pack(one.exposures),
                _encode((one.responses, *bounds, life_ms)),
            )
            for one in users
        ]
        replies = (await self._nodes.run({shard: calls}))[shard]
        self._forgotten.inc(sum(map(_checked, replies)))
        return [None] * len(users)


def _user_key(shard: int, user_key: str) -> str:
    return f"dsp:{tag(shard)}:user:{user_key}"


def _position_key(shard: int) -> str:
    return f"dsp:{tag(shard)}:users"


def _checked(reply: Any) -> Any:
    """Return a reply; raises UnavailableError where the server refused, as one without memory does."""
    if isinstance(reply, ResponseError):
        raise UnavailableError(str(reply)) from cast(BaseException, reply)
    return reply
