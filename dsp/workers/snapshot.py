"""Publishes the catalogue when it changes: its budgets to the lease store, then the snapshot to the bidders."""

from collections.abc import Mapping

import msgspec
from sqlalchemy.orm import Session, sessionmaker

from dsp.cache.connect import blob_store, lease_store
from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import BlobStore, KeptLeaseStore, LeaseStore, Limit
from dsp.catalog.entities import Catalogue
from dsp.catalog.status import Status, effective
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, Clock, SystemClock
from dsp.snapshot.codec import encode
from dsp.store.catalog import load_catalogue, revision
from dsp.store.database import create_engine, session_factory, url
from dsp.store.leader import Leadership
from dsp.workers import runner
from dsp.workers.single import Single

#: The blob under which the snapshot is published.
SNAPSHOT_BLOB = "snapshot"


def limits(catalogue: Catalogue) -> list[Limit]:
    """Return the hard budgets of every line item, with those of its campaign.

    What may not bid gets nothing, and its leases are recalled: the money is its campaign's other line items' again.
    """
    advertisers = {advertiser.id: advertiser.status for advertiser in catalogue.advertisers}
    above = {one.id: (advertisers[one.advertiser_id], one.status) for one in catalogue.campaigns}
    campaigns = {campaign.id: campaign.budget for campaign in catalogue.campaigns}
    return [
        Limit(
            line_item_id=line_item.id,
            campaign_id=line_item.campaign_id,
            daily_micros=line_item.budget.daily_micros,
            total_micros=(
                line_item.budget.total_micros
                if effective(line_item.status, *above[line_item.campaign_id]) is Status.ACTIVE
                else 0
            ),
            campaign_daily_micros=campaigns[line_item.campaign_id].daily_micros,
            campaign_total_micros=campaigns[line_item.campaign_id].total_micros,
        )
        for line_item in catalogue.line_items
        if line_item.campaign_id in campaigns  # an archived campaign's line items do not bid
    ]


class SnapshotJob:
    """Compares the catalogue's revision with what was published last; a fresh start publishes once in any case.

    So does a store that has lost what it was given: `kept` is the lease store where that may happen. And so does what
    another has published since: a process that was paused after it had looked may do so when it leads no more.
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
        self._published: int | None = None
        self._data = b""
        self._version = ""
        self._generations: list[str] = []

    async def open(self) -> None:
        await self._leases.open()
        await self._blobs.open()

    async def close(self) -> None:
        await self._leases.close()
        await self._blobs.close()

    async def step(self) -> bool:
        """Publish if there is something new, or if what was published is lost."""
        generations = [one.generation for one in await self._kept.standing()] if self._kept is not None else []
        whole = generations == self._generations and await self._is_ours()
        with self._sessions() as session:
            if whole and revision(session) == self._published:
                return False
            found, catalogue = load_catalogue(session)
        # Budgets first: a bidder that knows a line item before the lease store does would only be refused money, but
        # one that knew a lowered budget before the store does could still be granted the old one.
        await self._leases.set_limits(limits(catalogue))
        now_ms = self._clock.now_ms()
        version = f"r{found}-{now_ms}"
        self._data = encode(catalogue, version, now_ms)
        await self._blobs.put(SNAPSHOT_BLOB, self._data)
        self._published, self._generations = found, generations
        metrics.SNAPSHOT_PUBLISHED.set(now_ms / MS_PER_SECOND)
        logging.get(__name__).info("snapshot published", version=version, line_items=len(catalogue.line_items))
        return False

    async def _is_ours(self) -> bool:
        """Return whether what is published is what we have published."""
        if not await self._blobs.has(SNAPSHOT_BLOB):
            return False
        found = await self._blobs.get(SNAPSHOT_BLOB, self._version)
        if found is None:
            return True
        version, data = found
        if data != self._data:
            return False
        self._version = version
        return True


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
