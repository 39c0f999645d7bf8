"""Publishes the catalogue when it changes: its budgets to the lease store, then to the bidders who is active, and the
snapshot where that is not all that has changed.
"""

from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy.orm import Session, sessionmaker

from dsp.cache.connect import blob_store, lease_store
from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import BlobStore, KeptLeaseStore, LeaseStore, Limit
from dsp.catalog.entities import Catalogue
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, Clock, SystemClock, monotonic_ms
from dsp.snapshot import active
from dsp.snapshot.active import ACTIVE_BLOB
from dsp.snapshot.codec import SNAPSHOT_BLOB, encode
from dsp.store.database import create_engine, session_factory, url
from dsp.store.leader import Leadership
from dsp.store.replica import Replica
from dsp.workers import runner
from dsp.workers.single import Single

#: Statuses that are published beside the snapshot are in it so much later, at the latest.
_FOLD_MS = 600_000


def limits(catalogue: Catalogue, before: Iterable[Limit] = ()) -> list[Limit]:
    """Return the hard budgets of every line item, with those of its campaign.

    What may not bid gets nothing, and its leases are recalled: the money is its campaign's other line items' again. It
    pays for late wins all the same: it was shown. So does what was archived since `before`, which the catalogue lacks.
    """
    active = _active_campaigns(catalogue)
    campaigns = {campaign.id: campaign.budget for campaign in catalogue.campaigns}
    found = [
        Limit(
            line_item_id=line_item.id,
            campaign_id=line_item.campaign_id,
            daily_micros=line_item.budget.daily_micros,
            total_micros=line_item.budget.total_micros,
            campaign_daily_micros=campaigns[line_item.campaign_id].daily_micros,
            campaign_total_micros=campaigns[line_item.campaign_id].total_micros,
            active=line_item.status is Status.ACTIVE and line_item.campaign_id in active,
        )
        for line_item in catalogue.line_items
    ]
    kept = {limit.line_item_id for limit in found}
    for limit in before:
        if limit.line_item_id not in kept:
            if (shared := campaigns.get(limit.campaign_id)) is not None:
                limit = limit._replace(
                    campaign_daily_micros=shared.daily_micros, campaign_total_micros=shared.total_micros
                )
            found.append(limit._replace(active=False))
    return found


def _active_campaigns(catalogue: Catalogue) -> set[int]:
    advertisers = {one.id for one in catalogue.advertisers if one.status is Status.ACTIVE}
    return {one.id for one in catalogue.campaigns if one.status is Status.ACTIVE and one.advertiser_id in advertisers}


class _Blob:
    """A blob as this process has published it last."""

    def __init__(self, blobs: BlobStore, name: str) -> None:
        self._blobs = blobs
        self._name = name
        self._data = b""
        self._version = ""

    async def put(self, data: bytes) -> None:
        self._data = data
        await self._blobs.put(self._name, data)

    async def is_ours(self) -> bool:
        """Return whether what is published is what we have published."""
        if not await self._blobs.has(self._name):
            return False
        found = await self._blobs.get(self._name, self._version)
        if found is None:
            return True
        version, data = found
        if data != self._data:
            return False
        self._version = version
        return True


class SnapshotJob:
    """Follows the catalogue's writes: what is paused or resumed is told by itself, and any other change is a snapshot.

    A fresh start publishes once in any case. So does a store that has lost what it was given: `kept` is the lease store
    where that may happen. And so does what another has published since: a process that was paused after it had looked
    may do so when it leads no more.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        leases: LeaseStore,
        blobs: BlobStore,
        clock: Clock,
        kept: KeptLeaseStore | None = None,
    ) -> None:
        self._sessions = sessions
        self._leases = leases
        self._blobs = blobs
        self._clock = clock
        self._kept = kept
        self._replica = Replica()
        self._snapshot = _Blob(blobs, SNAPSHOT_BLOB)
        self._active = _Blob(blobs, ACTIVE_BLOB)
        self._generations: list[str] = []
        self._known: list[Limit] = []
        self._limits: dict[int, Limit] = {}  # as the lease store was surely told them, by line item
        self._version = ""
        self._published_ms = 0  # by the monotonic clock
        self._unfolded = False  # whether the snapshot's own statuses are behind
        #: What is to be published; it stays to be until it is.
        self._active_due = self._snapshot_due = True

    async def open(self) -> None:
        self._limits, self._snapshot_due = {}, True  # another may have led meanwhile
        await self._leases.open()
        await self._blobs.open()

    async def close(self) -> None:
        await self._leases.close()
        await self._blobs.close()

    async def step(self) -> bool:
        """Publish if there is something new, or if what was published is lost."""
        generations = [one.generation for one in await self._kept.standing()] if self._kept is not None else []
        whole = generations == self._generations and await self._snapshot.is_ours() and await self._active.is_ours()
        with self._sessions() as session:
            writes = self._replica.follow(session)
        if not whole or writes is None:
            self._limits = {}
            self._snapshot_due = True
        elif self._unfolded and monotonic_ms(self._clock) >= self._published_ms + _FOLD_MS:
            self._snapshot_due = True
        elif writes:
            self._active_due = True
            self._snapshot_due |= not all(write.keeps_rules for write in writes)
        if self._active_due or self._snapshot_due:
            await self._publish(self._clock.now_ms())
            self._generations = generations
        return False

    async def _publish(self, now_ms: int) -> None:
        catalogue = self._replica.catalogue(None if self._snapshot_due else Kind.LINE_ITEM)
        # Budgets first: a bidder that knows a line item before the lease store does would only be refused money, but
        # one that knew a lowered budget before the store does could still be granted the old one.
        found = self._known = limits(catalogue, self._known)
        told, self._limits = self._limits, {}  # a call that fails may have had its effect, or half of it
        await self._leases.set_limits([limit for limit in found if told.get(limit.line_item_id) != limit])
        self._limits = {limit.line_item_id: limit for limit in found}
        version = f"r{self._replica.revision}-{now_ms}" if self._snapshot_due else self._version
        # Who is active before the snapshot: bidders take it while they compile, and who is paused stops at once.
        may_bid = [limit.line_item_id for limit in found if limit.active]
        await self._active.put(active.encode(may_bid, version, self._replica.revision, now_ms))
        self._active_due, self._unfolded = False, True
        if not self._snapshot_due:
            logging.get(__name__).info("statuses published", version=version, revision=self._replica.revision)
            return
        await self._snapshot.put(encode(catalogue, version, now_ms))
        self._version, self._published_ms = version, monotonic_ms(self._clock)
        self._snapshot_due = self._unfolded = False
        metrics.SNAPSHOT_PUBLISHED.set(now_ms / MS_PER_SECOND)
        logging.get(__name__).info("snapshot published", version=version, line_items=len(catalogue.line_items))


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the snapshot worker on the stores that the settings ask for."""
    platform, workers = runner.sections(settings)
    clock = SystemClock()
    leases = lease_store(platform)
    engine = create_engine(url(platform))
    job = SnapshotJob(
        session_factory(engine, read_only=True),
        leases,
        blob_store(platform),
        clock,
        None if isinstance(leases, LocalLeaseStore) else leases,
    )
    await runner.run("snapshot", settings, Single(job, Leadership(engine, "snapshot")), workers.snapshot_poll_ms)
