"""The snapshot worker against the embedded stores, and a server that may lose what it was given."""

from collections.abc import Sequence

import pytest

from dsp.cache.port import LeaseWant, Limit
from dsp.cache.redis import RedisBlobStore, RedisLeaseStore
from dsp.catalog.entities import Catalogue
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.kernel.errors import UnavailableError
from dsp.snapshot.build import Snapshot
from dsp.snapshot.codec import decode
from dsp.store.catalog import load_catalogue
from dsp.workers.snapshot import SNAPSHOT_BLOB, SnapshotJob, limits
from tests.integration.workers.conftest import TODAY, World
from tests.servers.valkey import Valkey


async def published(world: World) -> Snapshot | None:
    found = await world.blobs.get(SNAPSHOT_BLOB)
    return None if found is None else decode(found[1])


def catalogue(world: World) -> Catalogue:
    with world.views() as session:
        return load_catalogue(session)[1]


async def granted(world: World, line_item_id: int, micros: int) -> int:
    epoch = await world.leases.register("bidder", world.clock.now_ms())
    report = await world.leases.sync(epoch, world.clock.now_ms(), [LeaseWant(line_item_id, TODAY, micros)], {}, 0)
    return sum(lease.granted_micros for lease in report.leases)


async def test_a_change_reaches_bidders_and_budgets(world: World) -> None:
    job = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await job.open()
    campaign = world.campaign(world.advertiser(), budget={"daily_micros": 900_000})
    line_item = world.line_item(campaign, budget={"daily_micros": 500_000, "total_micros": 700_000})
    await job.step()
    first = await published(world)
    assert first is not None
    assert first.line_item_ids.tolist() == [line_item]
    assert limits(catalogue(world)) == [Limit(line_item, campaign, 500_000, 700_000, 900_000, None)]
    assert 0 < await granted(world, line_item, 10_000_000) <= 500_000

    await job.step()
    unchanged = await published(world)
    assert unchanged is not None
    assert unchanged.version == first.version

    world.clock.advance(5)
    world.set_status(Kind.CAMPAIGN, campaign, Status.PAUSED)
    await job.step()
    paused = await published(world)
    assert paused is not None
    assert paused.version != first.version
    assert [each.status for each in paused.campaigns] == [Status.PAUSED]
    assert limits(catalogue(world)) == [Limit(line_item, campaign, 500_000, 0, 900_000, None)]  # leases are recalled
    assert await granted(world, line_item, 10_000_000) == 0
    await job.close()


async def test_an_archived_campaigns_line_items_are_gone(world: World) -> None:
    job = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await job.open()
    advertiser = world.advertiser()
    gone, kept = world.campaign(advertiser), world.campaign(advertiser)
    world.line_item(gone)
    line_item = world.line_item(kept)
    world.set_status(Kind.CAMPAIGN, gone, Status.ARCHIVED)
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert snapshot.line_item_ids.tolist() == [line_item]
    await job.close()


async def test_an_empty_catalogue_is_published_too(world: World) -> None:
    job = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await job.open()
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert len(snapshot.line_item_ids) == 0
    await job.close()


async def test_without_budgets_in_place_nothing_is_published(world: World) -> None:
    class Away(type(world.leases)):  # type: ignore[misc]
        away = True

        async def set_limits(self, limits: Sequence[Limit]) -> None:
            if self.away:
                raise UnavailableError("away")
            await super().set_limits(limits)

    leases = Away(world.path / "leases.db", world.clock)
    job = SnapshotJob(world.views, leases, world.blobs, world.clock)
    await job.open()
    line_item = world.line_item(world.campaign(world.advertiser()))
    with pytest.raises(UnavailableError):
        await job.step()
    assert await published(world) is None
    leases.away = False
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert snapshot.line_item_ids.tolist() == [line_item]
    await job.close()


async def test_a_restart_publishes_again(world: World) -> None:
    versions = []
    for _ in range(2):
        job = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
        await job.open()
        await job.step()
        await job.close()
        snapshot = await published(world)
        assert snapshot is not None
        versions.append(snapshot.version)
        world.clock.advance(1)
    assert versions[0] != versions[1]


async def test_what_another_has_published_since_is_replaced(world: World) -> None:
    """A process that was paused, or that another has taken over from, may publish what is old by then."""
    line_item = world.line_item(world.campaign(world.advertiser()), budget={"daily_micros": 500_000})
    old = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await old.open()
    await old.step()
    stale = await world.blobs.get(SNAPSHOT_BLOB)
    assert stale is not None
    world.clock.advance(5)
    world.update(Kind.LINE_ITEM, line_item, budget={"daily_micros": 100_000})
    job = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await job.open()
    await job.step()
    await job.step()
    await world.leases.set_limits([Limit(line_item, 1, 500_000, None, None, None)])
    await world.blobs.put(SNAPSHOT_BLOB, stale[1])
    world.clock.advance(5)
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert snapshot.line_items[0].budget.daily_micros == 100_000
    assert 0 < await granted(world, line_item, 10_000_000) <= 100_000
    before = await world.blobs.get(SNAPSHOT_BLOB)
    world.clock.advance(5)
    await job.step()
    assert await world.blobs.get(SNAPSHOT_BLOB) == before  # and then it is left alone
    await job.close()


async def test_what_a_server_has_lost_is_published_again(world: World, own_valkey: Valkey) -> None:
    url = own_valkey.url
    leases, blobs = RedisLeaseStore(url), RedisBlobStore(url)
    job = SnapshotJob(world.views, leases, blobs, world.clock, leases)
    await job.open()
    line_item = world.line_item(world.campaign(world.advertiser()))
    limit = "dsp:{dsp-0}:leases", f"limit:{line_item}"
    with own_valkey.client(url) as client:
        await job.step()
        before = await blobs.get(SNAPSHOT_BLOB)
        assert client.hexists(*limit)
        await job.step()
        assert await blobs.get(SNAPSHOT_BLOB) == before
        client.delete("dsp:{dsp-0}:leases")
        await job.step()
        assert client.hexists(*limit)
        client.delete("dsp:{dsp-0}:blob:snapshot")
        await job.step()
        assert await blobs.get(SNAPSHOT_BLOB) is not None
    await job.close()
