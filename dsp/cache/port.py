"""What the data plane asks of shared fast state."""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.events.schema import Notice
from dsp.kernel.money import Micros
from dsp.ledger.terms import LateClaim, LeaseReport, LeaseState, LeaseWant

__all__ = [
    "BlobStore", "KeptLeaseStore", "LateClaim", "LeaseReport", "LeaseState", "LeaseStore", "LeaseWant", "Limit",
    "Replay", "ReplayedUserStore", "Spent", "Standing", "UserStore",
]  # fmt: skip


class Limit(NamedTuple):
    """The hard budgets one line item draws on; None means unbounded. The campaign's are shared by its line items.

    Of one that is not `active` holders get nothing, and what no bid has reserved is recalled; its late wins are paid.
    """

    line_item_id: int
    campaign_id: int
    daily_micros: Micros | None
    total_micros: Micros | None
    campaign_daily_micros: Micros | None
    campaign_total_micros: Micros | None
    active: bool = True


class LeaseStore(Protocol):
    """Grants slices of the remaining budgets; the sum of what is granted never exceeds any limit.

    Raises dsp.kernel.errors.UnavailableError when away, ConflictError to a holder whose epoch was revoked, and
    ClockError to one whose clock is too far off that of a store which has its own.
    """

    async def open(self) -> None:
        """Connect, and create what is missing."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...

    async def register(self, holder: str, now_ms: int) -> int:
        """Return a new fencing epoch for a holder; leases carry it, and older epochs of the holder get no more."""
        ...

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        """In one transaction: renew the epoch, take back `returns` (lease id to micros), grant what fits of `wants`.

        The holder promises that until its next sync no bid of it expires after `expires_ms_max`; the store remembers
        the largest promise, because it is what a dead holder may have left outstanding.
        """
        ...

    async def set_limits(self, limits: Sequence[Limit]) -> None:
        """Replace the limits of these line items; one lowered below what is granted recalls what is not reserved."""
        ...

    async def settle(
        self, settled: Mapping[str, Micros], watermark_ms: int, campaigns: Mapping[int, int] | None = None
    ) -> None:
        """Record cumulative billed amounts by lease id, and how far the ledger has read. Absolute, so repeatable.

        `campaigns`, by line item, are those of leases that the store may have forgotten.
        """
        ...

    async def behind(self, watermark_ms: int) -> Sequence[str] | None:
        """Return the leases on which more may be billed than it was told; None where it may have forgotten any.

        `watermark_ms` is how far the ledger has told it, as the book says. What it does not name is closed, or billed
        to the last micro granted.
        """
        ...

    async def cover(self, claims: Sequence[LateClaim]) -> dict[str, Micros]:
        """Grant the ledger's own leases what late wins cost, each of them in full or not at all, in the order given.

        Only what no limit and no other lease needs is granted, and it stays granted. Return what these leases were
        granted in all, by lease id; one that nothing is known of is absent. Claims count from what the book has
        charged, so asking again is harmless, and what a ledger that died had asked for is its successor's.
        """
        ...

    async def reclaim(self, now_ms: int, holder_timeout_ms: int) -> Micros:
        """Return to the budgets what dead holders' leases no longer can spend; return how much that was.

        A holder is dead when it has been replaced, or did not sync for `holder_timeout_ms` by the caller's clock. Its
        leases are closed once the watermark has passed all that it promised.
        """
        ...


class Spent(NamedTuple):
    """What the book says was charged for one line item's bids of one day, leases of all holders together."""

    line_item_id: int
    campaign_id: int
    day: int
    micros: Micros


class Standing(NamedTuple):
    """How it is with one shard of a lease store. A generation is what was never lost; the next one begins with nothing.

    Until `whole`, it grants nothing. Holders have promised up to `asked_ms`, and promises beyond `ceiling_ms` are not
    accepted.
    """

    shard: int
    generation: str
    whole: bool
    asked_ms: int
    ceiling_ms: int


class KeptLeaseStore(LeaseStore, Protocol):
    """A lease store that may lose its data without the book's being lost: dsp.workers.lease_keeper keeps it whole."""

    async def standing(self) -> Sequence[Standing]:
        """Return the state of each shard."""
        ...

    async def restate(
        self, shard: int, generation: str, spent: Sequence[Spent], epoch_min: int, ceiling_ms: int
    ) -> None:
        """Tell a generation all that was ever spent, after which it grants; one that has been told is left alone.

        Epochs up to `epoch_min` were given out before.
        """
        ...

    async def raise_ceiling(self, shard: int, generation: str, ceiling_ms: int) -> None:
        """Accept promises up to `ceiling_ms` from now on."""
        ...


class UserStore(Protocol):
    """User records by key.

    What is at hand is answered at once, anything else with an awaitable: bids wait for a store only where there is
    something to wait for. Both calls, and what they give to await, raise dsp.kernel.errors.UnavailableError.
    """

    async def open(self) -> None:
        """Connect, and create what is missing."""
        ...

    async def close(self) -> None:
        """Save, and release connections."""
        ...

    def get(self, user_key: str) -> UserRecord | Awaitable[UserRecord | None] | None:
        """Return the record, or None for an unknown user."""
        ...

    def expose(self, user_key: str, exposure: Exposure) -> Awaitable[None] | None:
        """Count one impression, once per bid id and at the earliest time given for it, in whatever order they come."""
        ...

    def respond(self, user_key: str, response: Response) -> Awaitable[None] | None:
        """Remember a click or conversion, once per bid id and each at the earliest time given for it."""
        ...


class Replay(NamedTuple):
    """Up to where the records contain the event log, and whether this process is the one that reads it into them."""

    position: dict[int, int]
    ours: bool


class ReplayedUserStore(UserStore, Protocol):
    """A user store that reads the event log as well: what it lost, and what it was not told, it finds there."""

    async def begin_replay(self) -> Replay:
        """Return from where on the log is to be read, and whether by this process."""
        ...

    def absorb(self, notices: Iterable[Notice], position: Mapping[int, int]) -> Awaitable[object] | None:
        """Count what notices read from the log up to `position` tell; counting again is harmless."""
        ...

    async def end_replay(self, position: Mapping[int, int]) -> None:
        """Write down that everything up to `position`, the end of the log, is contained."""
        ...


class BlobStore(Protocol):
    """Small named artefacts that one process publishes and others follow: the snapshot, the pacing controls.

    All methods raise dsp.kernel.errors.UnavailableError when the store is away, and ValueError for what is no name.
    """

    async def open(self) -> None:
        """Connect; a store that is away is no fault yet."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...

    async def put(self, name: str, data: bytes) -> None:
        """Publish atomically: a reader sees the old bytes or the new, never a mixture."""
        ...

    async def get(self, name: str, seen: str = "") -> tuple[str, bytes] | None:
        """Return (version, bytes), or None when nothing newer than the version `seen` is there."""
        ...

    async def has(self, name: str) -> bool:
        """Return whether anything is published under the name: a store may have lost what it had."""
        ...
