"""The lease store in Redis or Valkey. The protocol and its safety argument are those of dsp.cache.local_leases.

Each shard is a lease store of its own, with whole campaigns in it and everything the protocol needs, and each operation
on it is one script. What concerns several shards is done in each; a caller that dies half way leaves some as they were,
which is as if its call had been late there. No budget spans two shards, so none is granted twice.

A script's effects count only once they are on the server's disk (WAITAOF): a holder never uses money that a restart
would forget it has. A shard whose data is gone, or that a replica has taken over, is another **generation**, which
grants nothing until the ledger worker has told it all that is spent, and nothing can be charged to the leases of the
last one any more. How it knows that: a holder's promise counts only up to a **ceiling** which the book knows of
(dsp.workers.lease_keeper).
"""

import uuid
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from dsp.cache.local_leases import GRANT_MIN_MICROS, SPARE_PART, portions
from dsp.cache.port import LeaseReport, LeaseState, LeaseWant, Limit, Spent, Standing
from dsp.cache.redis_connection import Command
from dsp.cache.redis_nodes import Nodes, tag
from dsp.kernel.errors import ClockError, ConflictError, DspError, UnavailableError
from dsp.kernel.money import Micros
from dsp.ledger.terms import CLOCK_SKEW_MS_MAX, NOTICE_GRACE_MS, LateClaim, late_lease_id, lease_id, lease_parts

TIMEOUT_MS = 5_000
#: How long to wait for a server's disk, within that.
_DURABLE: Command = ("WAITAOF", 1, 0, 3_000)
#: Leases settled by one script, so that none keeps others waiting for long.
_SETTLED_MAX = 1_000
_REGISTER_TRIES = 10
#: What the script's errors are, by their first words.
_FAULTS: dict[str, type[DspError]] = {"FENCED": ConflictError, "CLOCK": ClockError}
_SCRIPT = (files("dsp.cache") / "leases.lua").read_bytes()

_encode = msgspec.msgpack.Encoder().encode
_decode_report = msgspec.msgpack.Decoder(tuple[int, list[tuple[int, int, Micros, Micros, bool, Micros]]]).decode
_decode_cover = msgspec.msgpack.Decoder(list[tuple[int, int, Micros]]).decode
_decode_names = msgspec.msgpack.Decoder(list[str]).decode
_decode_standing = msgspec.msgpack.Decoder(tuple[str, bool, int, int]).decode


class RedisLeaseStore:
    """Implements dsp.cache.port.KeptLeaseStore; `url` as `platform.cache_url`.

    A holder whose clock is more than `skew_ms_max` off the server's gets nothing, and its promises do not count.
    """

    def __init__(self, url: str, skew_ms_max: int = CLOCK_SKEW_MS_MAX) -> None:
        self._nodes = Nodes(url, TIMEOUT_MS)
        self._skew_ms_max = skew_ms_max
        self._shards = range(self._nodes.shards)
        self._shard_of: dict[int, int] = {}  # line items whose leases were seen there

    async def open(self) -> None:
        """Look for the servers; those away are looked for in the background."""
        await self._nodes.open()

    async def close(self) -> None:
        """Release connections."""
        await self._nodes.close()

    async def register(self, holder: str, now_ms: int) -> int:
        """Return a new epoch for a holder, one that was never given out before; its older epochs are fenced.

        Shards know the same epochs, so any that is whole knows the last; and of two holders that both take the next
        one, at most one finds it free in all of them.
        """
        for _ in range(_REGISTER_TRIES):
            last = max(int(found) for found in (await self._everywhere("last_epoch")).values())
            if last < 0:
                raise UnavailableError("the lease store has lost its data, and was not told yet what is spent")
            taken = await self._everywhere("register", holder, last + 1)
            if all(found == b"OK" for found in taken.values()):
                return last + 1
        raise UnavailableError("too many holders register at once")

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        """In each shard: renew the epoch and its promise, take back `returns`, then grant what fits of `wants`.

        Raises:
            ClockError: the holder's clock and the server's are too far apart.
        """
        given = [
            (parts[1], parts[2], amount)
            for name, amount in returns.items()
            if (parts := lease_parts(name)) is not None and parts[0] == epoch
        ]
        calls = {
            shard: (
                "sync", epoch, now_ms, self._of(shard, wants), self._of(shard, given), max(expires_ms_max, 0),
                GRANT_MIN_MICROS, SPARE_PART, self._skew_ms_max,
            )
            for shard in self._shards
        }  # fmt: skip
        states: list[LeaseState] = []
        watermarks = []
        for shard, reply in (await self._run(calls)).items():
            watermark_ms, leases = _decode_report(reply)
            watermarks.append(watermark_ms)
            self._shard_of |= {lease[0]: shard for lease in leases}
            states += [LeaseState(lease_id(epoch, *lease[:2]), *lease) for lease in leases]
        return LeaseReport(states, min(watermarks))

    async def set_limits(self, limits: Sequence[Limit]) -> None:
        """Replace the limits of these line items; one lowered below what is granted recalls what is not reserved."""
        of_shard: dict[int, list[list[int]]] = {}
        for limit in limits:
            bounds = [-1 if bound is None else bound for bound in limit[2:6]]
            row = [*limit[:2], *bounds, limit.active]
            of_shard.setdefault(self._shard(limit.campaign_id), []).append(row)
        await self._run({shard: ("set_limits", rows) for shard, rows in of_shard.items()})

    async def settle(
        self, settled: Mapping[str, Micros], watermark_ms: int, campaigns: Mapping[int, int] | None = None
    ) -> None:
        """Record cumulative billed amounts by lease id, and with the last of them how far the ledger has read.

        What a shard has forgotten `restate` tells it.
        """
        for some, at_ms in portions(settled, watermark_ms, _SETTLED_MAX):
            await self._everywhere("settle", some, at_ms)

    async def behind(self, watermark_ms: int) -> Sequence[str] | None:
        """Return the leases of each shard that are not spent or returned; what it has lost `restate` tells it."""
        return [name for reply in (await self._everywhere("behind")).values() for name in _decode_names(reply)]

    async def cover(self, claims: Sequence[LateClaim]) -> dict[str, Micros]:
        """Grant the ledger's own leases what late wins cost, as far as there is room; return what they have in all.

        A shard grants nothing for a claim that is beyond its ceiling, of a day whose budget it has forgotten, or while
        it is not whole.
        """
        of_shard: dict[int, list[tuple[int, int, Micros, int, tuple[Micros, ...]]]] = {}
        for one in claims:
            row = (one.line_item_id, one.day, one.charged_micros, one.appended_ms, one.amounts)
            of_shard.setdefault(self._shard(one.campaign_id), []).append(row)
        found = await self._run({shard: ("cover", rows) for shard, rows in of_shard.items()})
        granted = [one for reply in found.values() for one in _decode_cover(reply)]
        return {late_lease_id(line_item_id, day): micros for line_item_id, day, micros in granted}

    async def reclaim(self, now_ms: int, holder_timeout_ms: int) -> Micros:
        """Fence silent holders, and return to the budgets what fenced holders' leases no longer can spend."""
        reclaimed = await self._everywhere("reclaim", now_ms, holder_timeout_ms, NOTICE_GRACE_MS)
        return sum(map(int, reclaimed.values()))

    async def standing(self) -> list[Standing]:
        """Return the state of each shard."""
        found = await self._everywhere("standing")
        return [Standing(shard, *_decode_standing(found[shard])) for shard in self._shards]

    async def restate(
        self, shard: int, generation: str, spent: Sequence[Spent], epoch_min: int, ceiling_ms: int
    ) -> None:
        """Tell a generation all that was ever spent, after which it grants; one that has been told is left alone."""
        used: dict[str, Micros] = {}
        for one in spent:
            if self._shard(one.campaign_id) == shard:
                for owner in (f"line_item:{one.line_item_id}", f"campaign:{one.campaign_id}"):
                    for field in (f"{owner}:{one.day}", f"{owner}:all"):
                        used[field] = used.get(field, 0) + one.micros
        await self._run({shard: ("restate", generation, list(used.items()), epoch_min, ceiling_ms)})

    async def raise_ceiling(self, shard: int, generation: str, ceiling_ms: int) -> None:
        """Let holders promise up to `ceiling_ms`, which the book has been told before."""
        await self._run({shard: ("raise_ceiling", generation, ceiling_ms)})

    def _shard(self, campaign_id: int) -> int:
        return campaign_id % self._nodes.shards

    def _of(self, shard: int, rows: Sequence[tuple[int, int, Micros]]) -> list[tuple[int, int, Micros]]:
        """Return the rows whose line item may be in a shard; one that has no limits there does nothing."""
        return [row for row in rows if self._shard_of.get(row[0], shard) == shard]

    async def _everywhere(self, operation: str, *arguments: Any) -> dict[int, Any]:
        return await self._run(dict.fromkeys(self._shards, (operation, *arguments)))

    async def _run(self, calls: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Run an operation in each shard; return their replies once all they did is durable.

        Raises:
            ConflictError: the epoch is revoked.
            ClockError: the holder's clock is too far off the server's.
            UnavailableError: a server is away, or refuses; or a generation was lost meanwhile.
        """
        in_cluster = int(self._nodes.address.cluster)
        commands: dict[int, Sequence[Command]] = {}
        for shard, (operation, *arguments) in calls.items():
            key, told = f"dsp:{tag(shard)}:leases", _encode(arguments)
            commands[shard] = [("EVAL", _SCRIPT, 1, key, operation, told, uuid.uuid4().hex, in_cluster)]
        found = {shard: reply for shard, (reply,) in (await self._nodes.run(commands, _DURABLE)).items()}
        for reply in found.values():
            if isinstance(reply, ResponseError):
                raise _FAULTS.get(str(reply).partition(" ")[0], UnavailableError)(str(reply)) from reply
        return found
