"""How many bids this process has sent: counted in memory, and handed to the event log every few seconds.

These are statistics, not money: what a kill loses is the bids of the last `HAND_OVER_SECONDS`.
"""

import asyncio
import uuid
from collections import defaultdict
from functools import partial

from bidder.outbox import Outbox
from dsp.events.schema import BidCount, BidFacts, BidsSent, encode
from dsp.events.topics import Topic
from dsp.kernel.clock import MS_PER_HOUR
from dsp.kernel.lifecycle import cancel

HAND_OVER_SECONDS = 5.0
#: Counts in one record: bids wait while it is made.
COUNTS_MAX = 500


class BidCounter:
    """Counts bids by what reports tell apart. Its records are numbered, so that one delivered twice counts once."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._sender = uuid.uuid4().hex  # one process's life: its numbers begin anew with the next
        self._number = 0
        self._at_ms = 0
        self._counts: defaultdict[tuple[int, int, int, int, str, int, int], int] = defaultdict(int)
        self._task: asyncio.Task[None] | None = None

    def count(self, facts: BidFacts) -> None:
        """Count one bid that has left."""
        self._at_ms = facts.bid_at_ms
        self._counts[
            facts.advertiser_id,
            facts.campaign_id,
            facts.line_item_id,
            facts.creative_id,
            facts.exchange,
            facts.day,
            facts.bid_at_ms // MS_PER_HOUR,
        ] += 1

    async def start(self) -> None:
        """Begin to hand over."""
        self._task = asyncio.create_task(self._run(), name="bid-counter")

    async def stop(self) -> None:
        """Hand over what is left, before the outbox stops."""
        await cancel(self._task)
        await self.hand_over()

    async def hand_over(self) -> None:
        """Queue what was counted since the last time; a full outbox drops and counts."""
        for _ in range(0, len(self._counts), COUNTS_MAX):
            found = [self._counts.popitem() for _ in range(min(len(self._counts), COUNTS_MAX))]
            self._number += 1
            sent = BidsSent(
                sender=self._sender,
                number=self._number,
                at_ms=self._at_ms,
                counts=tuple([BidCount(*key, bids) for key, bids in found]),
            )
            # All records of a sender have one key, and so one order, in which the book reads them.
            self._outbox.offer(Topic.NOTICES, self._sender, partial(encode, sent))
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(HAND_OVER_SECONDS)
            await self.hand_over()
