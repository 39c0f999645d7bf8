"""Keeps a lease store whole that may lose its data while the book keeps its own (dsp.cache.port.KeptLeaseStore).

What holders were granted is written in the lease store alone. When that is gone nobody knows what bids are out, but
the book knows when the last of them has expired: holders' promises count only up to a ceiling, which is written here
before the store is told. When the ledger has read past it, all that can ever be charged to the lost leases is in the
book; the store is told that, as a new generation, and grants again. Until then it grants nothing.
"""

from sqlalchemy.orm import Session, sessionmaker

from dsp.cache.port import KeptLeaseStore, Spent, Standing
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR
from dsp.ledger.terms import closes_ms, lease_parts
from dsp.store.book import BookRepository
from dsp.store.lease_generations import Known, LeaseGenerations

#: The ceiling is raised to so much beyond what holders ask for, and again when less than half of that is left. A loss
#: costs that much longer without grants.
CEILING_SLACK_MS = 60_000
#: No promise counts that is further ahead of the ledger than this: a holder whose clock is years ahead would otherwise
#: leave the store closed for years after a loss.
PROMISE_AHEAD_MS_MAX = 26 * MS_PER_HOUR
#: Of so many days a store that lost its data is told day by day what was spent, of all before them as of one day. Late
#: wins of those are charged where that day has room.
DAYS_TOLD = 8
#: Before any watermark, where there was nothing to lose.
_NEVER = -(1 << 62)


class LeaseKeeper:
    """Looks after one lease store. Several at once do no harm."""

    def __init__(self, sessions: sessionmaker[Session], leases: KeptLeaseStore) -> None:
        self._sessions = sessions
        self._leases = leases
        self._waiting: dict[int, str] = {}

    async def keep(self, watermark_ms: int) -> None:
        """Look once; `watermark_ms` is how far all notices are in the book.

        Raises:
            UnavailableError: the store or the book is away; the next call does what was left.
        """
        standings = await self._leases.standing()
        due = [
            one
            for one in standings
            if not one.whole or _needed_ms(one, watermark_ms) + CEILING_SLACK_MS // 2 > one.ceiling_ms
        ]
        if due:
            live = {one.shard: one.generation for one in standings if one.whole}
            await self._mend(due, live, watermark_ms)
        else:
            self._waiting = {}
        metrics.LEASE_SHARDS_CLOSED.set(len(self._waiting))

    async def _mend(self, due: list[Standing], live: dict[int, str], watermark_ms: int) -> None:
        spent: list[Spent] = []
        epoch_min = 0
        with self._sessions.begin() as session:
            generations = LeaseGenerations(session)
            known = generations.all()
            lost_ms = {one.shard: _lost_ms(one.shard, known, live) for one in due}
            may = [
                one
                for one in due
                if one.whole
                or watermark_ms >= closes_ms(lost_ms[one.shard])
                or (one.shard in known and known[one.shard].generation == one.generation)  # it never granted anything
            ]
            self._report([one for one in due if one not in may], lost_ms)
            ceilings = {one.shard: _needed_ms(one, watermark_ms) + CEILING_SLACK_MS for one in may}
            for one in may:
                generations.write(one.shard, one.generation, ceilings[one.shard])
            if not all(one.whole for one in may):
                spent, epoch_min = _spent(BookRepository(session), watermark_ms // MS_PER_DAY - DAYS_TOLD)
        for one in may:
            ceiling_ms = ceilings[one.shard]
            if one.whole:
                await self._leases.raise_ceiling(one.shard, one.generation, ceiling_ms)
            else:
                await self._leases.restate(one.shard, one.generation, spent, epoch_min, ceiling_ms)
                logging.get(__name__).info("lease store whole", shard=one.shard, generation=one.generation)

    def _report(self, waiting: list[Standing], lost_ms: dict[int, int]) -> None:
        for one in waiting:
            if self._waiting.get(one.shard) != one.generation:
                logging.get(__name__).error(
                    "lease store has lost its data and grants nothing until the ledger has read on",
                    shard=one.shard,
                    until_ms=lost_ms[one.shard],
                )
        self._waiting = {one.shard: one.generation for one in waiting}


def _needed_ms(one: Standing, watermark_ms: int) -> int:
    return max(watermark_ms, min(one.asked_ms, watermark_ms + PROMISE_AHEAD_MS_MAX))


def _lost_ms(shard: int, known: dict[int, Known], live: dict[int, str]) -> int:
    """Return until when bids may be out on leases that a shard should know and does not; far past where there are none.

    They were lost with generations that are no more. What stands is not waited for: its holders go on promising. A
    shard that never was waits for all that was ever promised, as campaigns were divided otherwise before.
    """
    of_all = shard not in known
    return max(
        (one.ceiling_ms for at, one in known.items() if of_all or live.get(at) != one.generation), default=_NEVER
    )


def _spent(book: BookRepository, first: int) -> tuple[list[Spent], int]:
    """Return what was charged for each line item's days, and the latest epoch that anything was charged to.

    What was charged for days before `first` is of the one before it: the book may have years of them.
    """
    days = [*book.results_before(first), *book.days(first)]
    spent = [Spent(one.line_item_id, one.campaign_id, one.day, one.spend_micros) for one in days if one.spend_micros]
    epoch, after = 0, ""
    while leases := book.spent_by_lease(after):
        epoch = max([epoch, *(parts[0] for name in leases if (parts := lease_parts(name)) is not None)])
        after = list(leases)[-1]
    return spent, epoch
