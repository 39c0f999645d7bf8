"""The words of the lease protocol, shared by the holder (dsp.ledger.lease) and the store (dsp.cache)."""

from collections.abc import Sequence
from typing import NamedTuple

from dsp.kernel.money import Micros

#: After a bid's expiry its notices are still charged to the lease for this long: time to get into the log.
NOTICE_GRACE_MS = 2_000
#: A holder stops reserving by itself when its last successful sync is so long ago.
SILENCE_MS_MAX = 65_000
#: How far a holder's clock may be off the lease store's. Around midnight it spends so much of another day's budget.
CLOCK_SKEW_MS_MAX = 15 * 60_000
#: The epoch of the ledger's own leases, one for each line item and day, which pay for late wins. No holder has it.
LATE_EPOCH = 0


class LeaseWant(NamedTuple):
    """Ask for `amount_micros` more for a line item, from the budget of `day` (days since epoch, advertiser's zone)."""

    line_item_id: int
    day: int
    amount_micros: Micros


class LeaseState(NamedTuple):
    """A lease as the store has it. Cumulative: `granted_micros` so far less returns, `settled_micros` billed so far.

    `recalled`: a budget was lowered below what is granted of it, so what no bid has reserved is to be given back.
    `spare_micros` may be kept beyond what is needed at once, in case the store cannot be reached for a while.
    """

    lease_id: str
    line_item_id: int
    day: int
    granted_micros: Micros
    settled_micros: Micros
    recalled: bool = False
    spare_micros: Micros = 0


class LeaseReport(NamedTuple):
    """The answer to a sync: every lease of the epoch that is not spent or returned to the last micro.

    Every notice appended before `watermark_ms` is contained in `settled_micros`.
    """

    leases: Sequence[LeaseState]
    watermark_ms: int


class LateClaim(NamedTuple):
    """Late wins of one line item's day that are new to the book, in the log's order: may the budgets pay for them?

    `charged_micros` is what the book has charged for such wins of that day so far, and `appended_ms` the latest stamp
    of these: the watermark does not pass it before they are in the book.
    """

    line_item_id: int
    campaign_id: int
    day: int
    charged_micros: Micros
    appended_ms: int
    amounts: tuple[Micros, ...]

    @property
    def lease_id(self) -> str:
        """Return the lease that is to pay."""
        return late_lease_id(self.line_item_id, self.day)


def lease_id(epoch: int, line_item_id: int, day: int) -> str:
    """Return the name of the lease that a holder's epoch has on a line item's day."""
    return f"{epoch}-{line_item_id}-{day}"


def late_lease_id(line_item_id: int, day: int) -> str:
    """Return the name of the lease from which the ledger pays for late wins of a line item's day."""
    return lease_id(LATE_EPOCH, line_item_id, day)


def lease_parts(name: str) -> tuple[int, int, int] | None:
    """Return the epoch, line item and day that a lease's name is made of; None where it is no lease's."""
    parts = name.split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])


def closes_ms(expires_at_ms: int) -> int:
    """Return the `appended_ms` from which on a billing notice is late: not charged to its bid's lease any more."""
    return expires_at_ms + NOTICE_GRACE_MS
