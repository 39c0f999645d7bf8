"""The bidder's side of the lease protocol: reserve before the bid leaves, resolve when the ledger has caught up.

Why no budget is overspent. The store's grants never exceed a limit. Within a lease, at any instant,

    granted >= settled + reservations outstanding, each at its maximum cost

and every charge that the ledger will ever make on the lease is inside the right-hand side, because a reservation ends
only when (1) a billing or a loss notice of its bid was appended before the watermark: the charge, if there was one, is
inside `settled`, and one appended after the loss is not charged to the lease; (2) the watermark has passed
`closes_ms(expires_at_ms)`: nothing appended later is charged to the lease; or (3) the bid never left (`cancel`).

Money may thus count twice for a moment, and is never spent twice. With the ledger or the store away the watermark
stands still, leases run dry and bidding stops.

A process that dies takes its reservations with it. So every sync promises the store an instant after which no bid
expires, and `reserve` keeps the promise: whatever becomes of the process, of its clocks or of its settings, the store
knows when nothing can be charged to its leases any more. A process that was paused finds its last sync too old, or
its promise too short, and refuses to reserve long before the store gives its money to others.

Only one clock decides what is late: the log's, which stamps notices. Bids expire on its scale (`ledger_ms`), so that a
process whose own clock is behind does not make bids that are late from the start, and not charged to any budget.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple, TypeVar

import msgspec

from dsp.kernel.money import Micros
from dsp.ledger.terms import SILENCE_MS_MAX, LeaseReport, LeaseWant, closes_ms, lease_id

#: Reservations that end within the same 1,024 ms are looked after together.
_BUCKET_BITS = 10
#: How much of the last estimate of demand outlives an interval without any; it rises at once.
_RATE_DECAY = 0.7
_FIRST_INTERVAL_MS = 1_000
_NEVER_MS = -(1 << 62)
#: Leases or bids that a step of a sync looks at: a quarter of a millisecond, for which bids wait.
_STEP = 256

_T = TypeVar("_T")
#: Work that may rest at every yield, while bids are reserved, and what comes of it.
Steps = Generator[None, None, _T]


class LeaseTuning(NamedTuple):
    """How much is leased, and the bounds. Amounts are in micros."""

    horizon_ms: int = 2_000  # money needed covers this long at the recent rate of reservations
    bids_min: int = 2  # and at least so many of the dearest recent bids
    #: Where the budget has plenty, so much is kept that bidding goes on while the store is away, and through bursts.
    spare_horizon_ms: int = 120_000
    spare_bids: int = 16
    #: What one bid costs that is worth a thousand others is kept for so many syncs with demand (to 1 / e), where the
    #: budget has plenty.
    rare_syncs: int = 5_000
    want_micros_max: Micros = 100_000_000
    #: Free money of a lease unused for so long goes back. Long, or a line item that is asked for once in a while would
    #: give its money back between one request and the next, and never bid. So long at least bids are promised to take
    #: as long as the longest, for the same reason: an exchange that takes longer than others may ask but now and then.
    idle_ms: int = 600_000
    surplus_factor: int = 2  # free money beyond so many horizons goes back
    reservations_max: int = 1_000_000
    leases_max: int = 100_000


class _Lease:
    """What is held on one line item's day; `free` is what was granted less settled, reserved and what goes back."""

    __slots__ = (
        "cost_max", "cost_rare", "day", "demand", "free", "id", "line_item_id",
        "rate", "recalled", "reserved", "spare", "target", "used_ms",
    )  # fmt: skip

    def __init__(self, epoch: int, line_item_id: int, day: int) -> None:
        self.id = lease_id(epoch, line_item_id, day)
        self.line_item_id = line_item_id
        self.day = day
        self.reserved = self.free = 0
        self.demand = 0  # micros asked for since the last sync, refused ones included
        self.cost_max = self.cost_rare = 0  # of the dearest bid lately, and for long
        self.rate = 0.0  # micros per millisecond
        self.target = 0  # free micros that are wanted
        self.spare = 0  # micros that may be kept beyond need
        self.used_ms = _NEVER_MS
        self.recalled = 0  # a budget was lowered: so much, which was free, goes back


class _Reservation(msgspec.Struct, frozen=True, gc=False):
    """What a bid without an outcome holds. There are many, which the garbage collector need not look at."""

    lease: _Lease
    cost_micros: Micros
    bucket: int


class LeaseBook:
    """One holder's leases. Pure state; not for several threads. Syncs happen one after the other:

        wants, returns, expires_ms_max -> LeaseStore.sync -> apply       (on ConflictError: register, then adopt)

    Each of them looks at every lease. `wanting`, `returning` and `applying` are the same in steps.

    `elapsed_ms` is always a monotonic reading (Clock.elapsed_ns in milliseconds), never wall time, which may step
    back. A sync whose outcome is unknown needs no care: what it returned stays out of use until a report tells.
    """

    def __init__(self, epoch: int, silence_ms_max: int = SILENCE_MS_MAX, tuning: LeaseTuning | None = None) -> None:
        self._tuning = tuning or LeaseTuning()
        self._silence_ms_max = silence_ms_max
        self._ledger_ahead_ms = _NEVER_MS  # of the monotonic clock; the watermark only ever tells too little
        #: Expiries asked for, ahead of the monotonic clock: since the turn, and in the while before it.
        self._ahead_ms = self._ahead_ms_before = self._turned_ms = _NEVER_MS
        self.adopt(epoch)

    def adopt(self, epoch: int) -> None:
        """Start anew under another epoch; what the old one left outstanding stays with the store until it reclaims."""
        self.epoch = epoch
        self.watermark_ms = 0
        self._leases: dict[tuple[int, int], _Lease] = {}
        self._latest: dict[int, _Lease] = {}  # of each line item that of its latest day
        self._reservations: dict[str, _Reservation] = {}
        self._buckets: dict[int, set[str]] = {}
        self._noticed: dict[str, int] = {}
        self.begun = False  # a line item was asked for that has no lease yet: a sync should not be waited for
        self._sent_ms = _NEVER_MS
        self._valid_until_ms = _NEVER_MS
        self.expires_ms_max = _NEVER_MS  # the promise of the sync that was begun last
        self._expires_ms_max = _NEVER_MS  # the promise that the store has confirmed

    def ledger_ms(self, elapsed_ms: int) -> int:
        """Return the instant on the log's clock, as far as the watermarks tell: never later than it is."""
        return self._ledger_ahead_ms + elapsed_ms

    def reserve(
        self,
        line_item_id: int,
        day: int,
        bid_id: str,
        cost_micros: Micros,
        elapsed_ms: int,
        expires_at_ms: int,
        again: bool = False,
    ) -> str | None:
        """Set a bid's maximum cost aside and return its lease's id, or None: then do not bid.

        `expires_at_ms` is the last instant on the log's clock at which a notice of the bid is not late. `again` is a
        bid cut down to what is payable: what it would have cost was asked for already.
        """
        lease = self._leases.get((line_item_id, day)) or self._begin(line_item_id, day)
        if not again:
            lease.demand += cost_micros
            lease.used_ms = elapsed_ms
            if cost_micros > lease.cost_max:
                lease.cost_max = cost_micros
        if expires_at_ms - elapsed_ms > self._ahead_ms:
            self._ahead_ms = expires_at_ms - elapsed_ms
        if not 0 <= cost_micros <= lease.free or elapsed_ms > self._valid_until_ms:
            return None
        if expires_at_ms > self._expires_ms_max:
            return None
        reservations = self._reservations
        if bid_id in reservations or len(reservations) >= self._tuning.reservations_max:
            return None
        key = expires_at_ms >> _BUCKET_BITS
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = set()
        bucket.add(bid_id)
        reservations[bid_id] = _Reservation(lease, cost_micros, key)
        lease.reserved += cost_micros
        lease.free -= cost_micros
        return lease.id

    def payable(self, line_item_id: int, day: int, elapsed_ms: int) -> Micros:
        """Return the most that a bid of the line item may cost now."""
        lease = self._leases.get((line_item_id, day))
        return max(lease.free, 0) if lease is not None and elapsed_ms <= self._valid_until_ms else 0

    def cancel(self, bid_id: str) -> None:
        """Free the reservation of a bid that never left this process; its tokens must never have been seen outside."""
        reservation = self._resolve(bid_id)
        if reservation is not None:
            reservation.lease.free += reservation.cost_micros

    def release(self, bid_id: str, appended_ms: int) -> None:
        """Free a lost bid's reservation once the ledger has passed its loss notice, appended at `appended_ms`."""
        self._notice(bid_id, appended_ms)

    def bill(self, bid_id: str, cost_micros: Micros, appended_ms: int) -> None:
        """Free a billed bid's reservation once the ledger has passed its billing notice: it is then settled.

        The reservation stands at its full cost until then; how much of it was charged is what the ledger says.
        """
        reservation = self._reservations.get(bid_id)
        if reservation is not None and cost_micros > reservation.cost_micros:
            raise ValueError("a notice may not bill more than was reserved")
        self._notice(bid_id, appended_ms)

    def wants(self, elapsed_ms: int) -> list[LeaseWant]:
        """Return what to ask for, from the rate of reservations since the last call; begins a sync."""
        return at_once(self.wanting(elapsed_ms))

    def wanting(self, elapsed_ms: int) -> Steps[list[LeaseWant]]:
        """Do as `wants`, in steps."""
        interval_ms = _FIRST_INTERVAL_MS if self._sent_ms == _NEVER_MS else max(1, elapsed_ms - self._sent_ms)
        self._sent_ms, self.begun = elapsed_ms, False
        self.expires_ms_max = max(self._ahead_ms, self._ahead_ms_before) + elapsed_ms + self._silence_ms_max
        if self._ahead_ms != _NEVER_MS and elapsed_ms - self._turned_ms >= self._tuning.idle_ms:
            self._turned_ms = elapsed_ms
            self._ahead_ms, self._ahead_ms_before = _NEVER_MS, self._ahead_ms
        wants = []
        for number, lease in enumerate(list(self._leases.values()), 1):
            if not number % _STEP:
                yield
            lease.rate = max(lease.demand / interval_ms, lease.rate * _RATE_DECAY)
            lease.target = self._target(lease)
            if self._idle(lease, elapsed_ms):
                lease.target = 0
            if lease.demand:  # an outlier is forgotten by what follows it; reserve() raises it again
                lease.cost_rare = max(lease.cost_max, lease.cost_rare - lease.cost_rare // self._tuning.rare_syncs - 1)
                lease.cost_max = lease.cost_max * 9 // 10
            lease.demand = 0
            if lease.target > lease.free:
                amount = min(lease.target - lease.free, self._tuning.want_micros_max)
                wants.append(LeaseWant(lease.line_item_id, lease.day, amount))
        return wants

    def returns(self, elapsed_ms: int, everything: bool = False) -> dict[str, Micros]:
        """Return what to give back by lease id: idle money, surplus, or all that is free before an orderly end.

        It is out of use from this call on, whether or not the store hears of it.
        """
        return at_once(self.returning(elapsed_ms, everything))

    def returning(self, elapsed_ms: int, everything: bool = False) -> Steps[dict[str, Micros]]:
        """Do as `returns`, in steps."""
        returns = {}
        for number, lease in enumerate(list(self._leases.values()), 1):
            if not number % _STEP:
                yield
            if lease.recalled:  # only once: whether the store has heard of it, a report will tell
                returns[lease.id], lease.recalled = lease.recalled, 0
                continue
            keep = 0 if everything or self._idle(lease, elapsed_ms) else lease.target
            if lease.free > keep * self._tuning.surplus_factor:
                returns[lease.id], lease.free = lease.free - keep, keep
        return returns

    def apply(self, report: LeaseReport, elapsed_ms: int) -> None:
        """Take over the store's answer to the sync that the last `wants` began."""
        at_once(self.applying(report, elapsed_ms))

    def applying(self, report: LeaseReport, elapsed_ms: int) -> Steps[None]:
        """Do as `apply`, in steps.

        What ended bids had reserved is free again only when their lease's turn comes, with what was settled of it.
        """
        self._valid_until_ms = self._sent_ms + self._silence_ms_max
        self._expires_ms_max = self.expires_ms_max
        self.watermark_ms = max(self.watermark_ms, report.watermark_ms)
        self._ledger_ahead_ms = max(self._ledger_ahead_ms, report.watermark_ms - elapsed_ms)
        for number, bid_id in enumerate(list(self._ended()), 1):
            if not number % _STEP:
                yield
            self._resolve(bid_id)
        reported = set()
        for number, state in enumerate(report.leases, 1):
            if not number % _STEP:
                yield
            key = (state.line_item_id, state.day)
            lease = self._leases.get(key) or self._begin(*key)
            if lease.id != state.lease_id:
                continue  # another epoch's
            reported.add(key)
            lease.spare = state.spare_micros
            lease.free = state.granted_micros - state.settled_micros - lease.reserved
            lease.recalled = max(lease.free, 0) if state.recalled else 0
            lease.free -= lease.recalled
        for number, key in enumerate(list(self._leases), 1):
            if not number % _STEP:
                yield
            if key not in reported:  # never granted, or spent and returned to the last micro
                lease = self._leases[key]
                lease.free, lease.recalled = -lease.reserved, 0
                if not lease.reserved and self._idle(lease, elapsed_ms):
                    del self._leases[key]

    @property
    def free_micros(self) -> Micros:
        """Return what can be reserved, over all leases."""
        return sum(max(0, lease.free) for lease in self._leases.values())

    @property
    def reserved_micros(self) -> Micros:
        """Return what bids without an outcome hold, over all leases."""
        return sum(lease.reserved for lease in self._leases.values())

    @property
    def reservations(self) -> int:
        """Return how many bids have no outcome yet."""
        return len(self._reservations)

    def _begin(self, line_item_id: int, day: int) -> _Lease:
        lease = _Lease(self.epoch, line_item_id, day)
        if len(self._leases) < self._tuning.leases_max:
            self._leases[line_item_id, day] = lease
            self.begun = True
            latest = self._latest.get(line_item_id)
            if latest is None or latest.day <= day:
                self._latest[line_item_id] = lease
        return lease  # beyond the bound it is not kept, so it never gets money: no bid

    def _target(self, lease: _Lease) -> Micros:
        """Return how much free money is wanted: what is needed at once, and as much of the spare as is of use."""
        tuning = self._tuning
        need = max(int(lease.rate * tuning.horizon_ms), tuning.bids_min * lease.cost_max)
        use = max(int(lease.rate * tuning.spare_horizon_ms), tuning.spare_bids * lease.cost_max, lease.cost_rare)
        return max(need, min(use, lease.spare))

    def _idle(self, lease: _Lease, elapsed_ms: int) -> bool:
        """Return whether nobody asks for a lease's money any more: for a while, or because its day is over.

        A later day that nobody asks for since proves nothing: the advertiser's time zone may have been changed.
        """
        latest = self._latest.get(lease.line_item_id, lease)
        over = lease.day < latest.day and lease.used_ms <= latest.used_ms
        return over or elapsed_ms - lease.used_ms >= self._tuning.idle_ms

    def _notice(self, bid_id: str, appended_ms: int) -> None:
        # Of a loss and a billing notice the one that is first in the log decides, so the earlier one ends it.
        if bid_id in self._reservations:
            self._noticed[bid_id] = min(appended_ms, self._noticed.get(bid_id, appended_ms))

    def _ended(self) -> Iterator[str]:
        yield from (bid_id for bid_id, appended_ms in self._noticed.items() if appended_ms < self.watermark_ms)
        for bucket, bid_ids in self._buckets.items():
            if closes_ms((bucket + 1) << _BUCKET_BITS) <= self.watermark_ms:
                yield from bid_ids

    def _resolve(self, bid_id: str) -> _Reservation | None:
        reservation = self._reservations.pop(bid_id, None)
        if reservation is None:
            return None
        lease, key = reservation.lease, reservation.bucket
        lease.reserved -= reservation.cost_micros
        self._noticed.pop(bid_id, None)
        bucket = self._buckets[key]
        bucket.discard(bid_id)
        if not bucket:
            del self._buckets[key]
        return reservation


def at_once(steps: Steps[_T]) -> _T:
    """Take all steps in a row, and return what comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: _T = end.value
            return found
