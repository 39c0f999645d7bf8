"""The snapshot worker against the embedded stores, and a server that may lose what it was given."""

from collections.abc import AsyncIterator, Sequence

import pytest

from dsp.cache.port import LateClaim, LeaseWant, Limit
from dsp.cache.redis import RedisBlobStore, RedisLeaseStore
from dsp.catalog.entities import Catalogue
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.kernel.errors import UnavailableError
from dsp.snapshot import active
from dsp.snapshot.active import ACTIVE_BLOB, Active
from dsp.snapshot.build import Snapshot
from dsp.snapshot.codec import decode
from dsp.store.catalog import load_catalogue
from dsp.targeting import bitmap
from dsp.workers.snapshot import SNAPSHOT_BLOB, SnapshotJob, limits
from tests.integration.workers.conftest import TODAY, World
from tests.servers.valkey import Valkey


@pytest.fixture
async def job(world: World) -> AsyncIterator[SnapshotJob]:
    made = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await made.open()
    yield made
    await made.close()


async def published(world: World) -> Snapshot | None:
    found = await world.blobs.get(SNAPSHOT_BLOB)
    return None if found is None else decode(found[1])


async def told(world: World) -> Active:
    found = await world.blobs.get(ACTIVE_BLOB)
    assert found is not None
    return active.decode(found[1])


async def bidding(world: World) -> list[int]:
    """Return the line items that a bidder takes for active that begins now."""
    snapshot = await published(world)
    assert snapshot is not None
    snapshot = (await told(world)).on(snapshot)
    return snapshot.line_item_ids[bitmap.positions(snapshot.index.active)].tolist()  # type: ignore[no-any-return]


def catalogue(world: World) -> Catalogue:
    with world.views() as session:
        return load_catalogue(session)[1]


async def granted(world: World, line_item_id: int, micros: int) -> int:
    epoch = await world.leases.register("bidder", world.clock.now_ms())
    report = await world.leases.sync(epoch, world.clock.now_ms(), [LeaseWant(line_item_id, TODAY, micros)], {}, 0)
    return sum(lease.granted_micros for lease in report.leases)


async def test_a_change_reaches_bidders_and_budgets(world: World, job: SnapshotJob) -> None:
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
    world.update(Kind.LINE_ITEM, line_item, bid_max_micros_cpm=7)
    await job.step()
    changed = await published(world)
    assert changed is not None
    assert changed.version != first.version
    assert changed.bid_max_micros_cpm.tolist() == [7]
    assert (await told(world)).snapshot == changed.version


async def test_statuses_and_budgets_need_no_snapshot(world: World, job: SnapshotJob) -> None:
    advertiser = world.advertiser()
    campaign, other = world.campaign(advertiser), world.campaign(advertiser)
    line_item = world.line_item(campaign, budget={"daily_micros": 500_000})
    second, third = world.line_item(campaign), world.line_item(other)
    await job.step()
    before = await world.blobs.get(SNAPSHOT_BLOB)
    assert await bidding(world) == [line_item, second, third]
    assert 0 < await granted(world, line_item, 10_000_000) <= 500_000

    world.set_status(Kind.CAMPAIGN, campaign, Status.PAUSED)
    await job.step()
    assert await bidding(world) == [third]
    assert await granted(world, line_item, 10_000_000) == 0  # leases are recalled
    world.set_status(Kind.CAMPAIGN, campaign, Status.ACTIVE)
    world.set_status(Kind.LINE_ITEM, second, Status.ARCHIVED)
    world.update(Kind.LINE_ITEM, line_item, budget={"daily_micros": 900_000})
    await job.step()
    assert await bidding(world) == [line_item, third]
    assert 0 < await granted(world, line_item, 10_000_000) <= 900_000  # beside what was granted before
    assert await granted(world, third, 10_000_000) > 0
    world.set_status(Kind.CAMPAIGN, other, Status.ARCHIVED)
    await job.step()
    assert await bidding(world) == [line_item]
    assert await granted(world, third, 10_000_000) == 0
    world.set_status(Kind.ADVERTISER, advertiser, Status.PAUSED)
    await job.step()
    assert await bidding(world) == []
    assert await world.blobs.get(SNAPSHOT_BLOB) == before


async def test_what_no_longer_bids_still_pays_for_late_wins_within_its_budgets(world: World, job: SnapshotJob) -> None:
    campaign = world.campaign(world.advertiser(), budget={"total_micros": 1_000_000})
    items = [world.line_item(campaign, budget={"total_micros": 500_000}) for _ in range(3)]
    await job.step()
    for item, status in zip(items, (Status.PAUSED, Status.ARCHIVED), strict=False):
        world.set_status(Kind.LINE_ITEM, item, status)
    await job.step()
    assert [await granted(world, item, 10) for item in items] == [0, 0, 10]

    async def covered(item: int, amount: int) -> int:
        (found,) = (await world.leases.cover([LateClaim(item, campaign, TODAY, 0, 0, (amount,))])).values()
        return found

    assert [await covered(item, 500_001) for item in items] == [0, 0, 0]
    assert [await covered(item, 200_000) for item in items] == [200_000] * 3
    world.update(Kind.CAMPAIGN, campaign, budget={"total_micros": 600_009})  # 10 are leased
    await job.step()
    assert [await covered(item, 200_001) for item in items] == [200_000] * 3


async def test_statuses_are_in_a_snapshot_after_a_while(world: World, job: SnapshotJob) -> None:
    line_item = world.line_item(world.campaign(world.advertiser()))
    await job.step()
    world.set_status(Kind.LINE_ITEM, line_item, Status.PAUSED)
    await job.step()
    world.clock.advance(600_000)
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert [one.status for one in snapshot.line_items] == [Status.PAUSED]
    before = await world.blobs.get(SNAPSHOT_BLOB)
    world.clock.advance(600_000)
    await job.step()
    assert await world.blobs.get(SNAPSHOT_BLOB) == before  # and that is all there was


async def test_who_is_paused_is_told_before_a_snapshot_can_be_published(world: World) -> None:
    class Full(type(world.blobs)):  # type: ignore[misc]
        full = False

        async def put(self, name: str, data: bytes) -> None:
            if self.full and name == SNAPSHOT_BLOB:
                raise UnavailableError("full")
            await super().put(name, data)

    blobs = Full(world.path / "blobs")
    job = SnapshotJob(world.views, world.leases, blobs, world.clock)
    await job.open()
    campaign = world.campaign(world.advertiser())
    first, second = world.line_item(campaign), world.line_item(campaign)
    world.set_status(Kind.LINE_ITEM, second, Status.PAUSED)
    await job.step()
    blobs.full = True
    world.clock.advance(1)
    world.set_status(Kind.LINE_ITEM, first, Status.PAUSED)
    world.update(Kind.LINE_ITEM, second, bid_max_micros_cpm=7)
    world.set_status(Kind.LINE_ITEM, second, Status.ACTIVE)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await job.step()
        assert await bidding(world) == []  # who is resumed waits for his bound
    blobs.full = False
    await job.step()
    assert await bidding(world) == [second]
    await job.close()


async def test_an_archived_campaigns_line_items_are_gone(world: World, job: SnapshotJob) -> None:
    advertiser = world.advertiser()
    gone, kept = world.campaign(advertiser), world.campaign(advertiser)
    world.line_item(gone)
    line_item = world.line_item(kept)
    world.set_status(Kind.CAMPAIGN, gone, Status.ARCHIVED)
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert snapshot.line_item_ids.tolist() == [line_item]


async def test_an_empty_catalogue_is_published_too(world: World, job: SnapshotJob) -> None:
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert len(snapshot.line_item_ids) == 0


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


async def test_a_budget_that_was_told_without_an_answer_is_told_again(world: World) -> None:
    class Mute(type(world.leases)):  # type: ignore[misc]
        mute = False

        async def set_limits(self, limits: Sequence[Limit]) -> None:
            await super().set_limits(limits)
            if self.mute:
                raise UnavailableError("no answer")

    leases = world.leases = Mute(world.path / "leases.db", world.clock)
    job = SnapshotJob(world.views, leases, world.blobs, world.clock)
    await job.open()
    line_item = world.line_item(world.campaign(world.advertiser()), budget={"daily_micros": 500_000})
    await job.step()
    leases.mute = True
    world.update(Kind.LINE_ITEM, line_item, budget={"daily_micros": 1})
    with pytest.raises(UnavailableError):
        await job.step()
    leases.mute = False
    world.update(Kind.LINE_ITEM, line_item, budget={"daily_micros": 500_000})
    await job.step()
    assert await granted(world, line_item, 10_000_000) > 1
    await job.close()


async def test_whoever_leads_again_tells_everything(world: World) -> None:
    """The one that led meanwhile may have told budgets, and no more."""
    job = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await job.open()
    line_item = world.line_item(world.campaign(world.advertiser()), budget={"daily_micros": 500_000})
    await job.step()
    await world.leases.set_limits([Limit(line_item, 1, 0, None, None, None)])
    await job.open()
    await job.step()
    assert await granted(world, line_item, 10_000_000) > 0
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


async def test_what_another_has_published_since_is_replaced(world: World, job: SnapshotJob) -> None:
    """A process that was paused, or that another has taken over from, may publish what is old by then."""
    line_item = world.line_item(world.campaign(world.advertiser()), budget={"daily_micros": 500_000})
    old = SnapshotJob(world.views, world.leases, world.blobs, world.clock)
    await old.open()
    await old.step()
    stale = await world.blobs.get(SNAPSHOT_BLOB)
    assert stale is not None
    active_before = await world.blobs.get(ACTIVE_BLOB)
    assert active_before is not None
    world.clock.advance(5)
    world.update(Kind.LINE_ITEM, line_item, budget={"daily_micros": 100_000})
    await job.step()
    await job.step()
    await world.leases.set_limits([Limit(line_item, 1, 500_000, None, None, None)])
    await world.blobs.put(SNAPSHOT_BLOB, stale[1])
    world.clock.advance(5)
    await job.step()
    snapshot = await published(world)
    assert snapshot is not None
    assert snapshot.line_items[0].budget.daily_micros == 100_000
    assert await bidding(world) == [line_item]
    assert 0 < await granted(world, line_item, 10_000_000) <= 100_000
    before = await world.blobs.get(SNAPSHOT_BLOB)
    world.clock.advance(5)
    await job.step()
    assert await world.blobs.get(SNAPSHOT_BLOB) == before  # and then it is left alone
    world.set_status(Kind.LINE_ITEM, line_item, Status.PAUSED)
    await job.step()
    await world.blobs.put(ACTIVE_BLOB, active_before[1])
    await job.step()
    assert await bidding(world) == []


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
        for name in (SNAPSHOT_BLOB, ACTIVE_BLOB):
            client.delete(f"dsp:{{dsp-0}}:blob:{name}")
            await job.step()
            assert await blobs.get(name) is not None
    await job.close()
