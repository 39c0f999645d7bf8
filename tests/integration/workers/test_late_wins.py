"""Wins that come after their reservations have ended: the budgets pay as far as they have room, and never more."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dsp.cache.port import LeaseWant, Limit
from dsp.events.schema import NoticeKind, encode
from dsp.kernel.errors import UnavailableError
from dsp.kernel.metrics import LEDGER_EVENTS
from dsp.ledger.terms import SILENCE_MS_MAX
from dsp.store.book import BookRepository
from dsp.workers.ledger import LedgerJob
from tests.integration.workers.ledgers import Leases, World
from tests.notices import FACTS, notice

NOON_MS = FACTS.day * 86_400_000 + 43_200_000


def late(number: int = 1, cost_micros: int = 80, **facts: int) -> bytes:
    return encode(notice(number, cost_micros=cost_micros, late=True, **facts))


def limits(total: int | None, campaign_total: int | None = None) -> list[Limit]:
    return [Limit(item, 2, None, total, None, campaign_total) for item in (3, 4)]


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> World:
    return World(engine, tmp_path, 2)


async def lease(leases: Leases, amount: int, item: int = 3) -> int:
    """Let a bidder lease money; return what it gets."""
    epoch = await leases.register("bidder", NOON_MS)
    report = await leases.sync(epoch, NOON_MS, [LeaseWant(item, FACTS.day, amount)], {}, NOON_MS)
    return sum(one.granted_micros for one in report.leases)


async def own(leases: Leases) -> list[tuple[int, int]]:
    """What the ledger's own leases were granted, and what the store was told that they bear."""
    query = "SELECT granted, settled FROM leases WHERE epoch = 0"
    return await leases._file.read(lambda sql: sql.execute(query).fetchall())


@pytest.mark.parametrize("held", [0, 20, 21, 100])
async def test_what_bidders_hold_is_no_room(world: World, held: int) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(100))
    assert await lease(leases, held) == held
    world.partitions.add(0, late())
    await job.step()
    paid = held <= 20
    assert world.money() == ((80, 0) if paid else (0, 80))
    assert await own(leases) == ([(80, 80)] if paid else [])
    assert await lease(leases, 100) == (100 - held - 80 if paid else 100 - held)  # the grantor sees what is left
    await job.close()


async def test_a_campaign_without_room_pays_for_none_of_its_line_items(world: World) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(None, 100))
    assert await lease(leases, 30, item=4) == 30
    world.partitions.add(0, late())
    await job.step()
    assert world.money() == (0, 80)
    await job.close()


async def test_a_lowered_budget_has_no_room_and_a_raised_one_does_not_pay_for_what_is_owed(world: World) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(10))
    world.partitions.add(0, late())
    await job.step()
    await leases.set_limits(limits(1_000))
    world.partitions.add(0, late(), late(2))
    await job.step()
    assert world.money() == (80, 80)
    await job.close()


async def test_a_late_win_told_again_and_again_is_charged_once(world: World) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(1_000))
    world.partitions.add(0, late(), late(), encode(notice(1)))
    await job.step()
    world.partitions.add(0, late(), encode(notice(1, NoticeKind.LOSS)), encode(notice(1)))
    await job.step()
    assert (world.money(), await own(leases)) == ((80, 0), [(80, 80)])
    await job.close()


async def test_a_late_win_billed_beyond_its_bid_is_charged_for_the_bid_and_counted_once(world: World) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(1_000))
    beyond = FACTS.cost_micros_max + 5
    world.partitions.add(0, late(cost_micros=beyond))
    before = {result: LEDGER_EVENTS.labels(result)._value.get() for result in ("charged", "late_charged", "late")}
    await job.step()
    assert world.money() == (FACTS.cost_micros_max, 5)
    counted = {result: LEDGER_EVENTS.labels(result)._value.get() - count for result, count in before.items()}
    assert counted == {"charged": 0, "late_charged": 0, "late": 1}
    await job.close()


async def test_a_win_after_a_loss_is_charged_to_the_ledgers_own_lease(world: World) -> None:
    """Its bid's reservation is free from the loss on, and may be another bid's by now."""
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(100))
    assert await lease(leases, 100) == 100
    world.partitions.add(0, encode(notice(1, NoticeKind.LOSS)), encode(notice(1)), late())
    await job.step()
    assert world.money() == (0, 80)
    await leases.set_limits(limits(180))
    world.partitions.add(0, encode(notice(2, NoticeKind.LOSS)))
    await job.step()
    world.partitions.add(0, encode(notice(2)))
    await job.step()
    assert (world.money(), await own(leases)) == ((80, 80), [(80, 80)])
    await job.close()


@pytest.mark.parametrize("dies", ["before it commits", "before it settles"])
async def test_a_ledger_that_dies_over_a_late_win_leaves_it_to_its_successor(
    world: World, engine: Engine, dies: str
) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(200))
    world.partitions.add(0, late())
    if dies == "before it commits":
        with pytest.raises(RuntimeError):
            await _killed_at_commit(job, engine)
        assert await own(leases) == [(80, 0)]
    else:
        right, leases.cover = leases.cover, _then_away(leases)  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            await job.step()
        leases.cover = right  # type: ignore[method-assign]
        assert (world.money(), await own(leases)) == ((80, 0), [(80, 0)])
    heir, _, leases = await world.worker(0, 1)
    world.partitions.add(0, late(), late(2))
    await heir.step()
    assert (world.money(), await own(leases)) == ((160, 0), [(160, 160)])
    assert await lease(leases, 100) == 40
    await job.close()
    await heir.close()


async def _killed_at_commit(job: LedgerJob, engine: Engine) -> None:
    def die(_connection: Any) -> None:
        raise RuntimeError("killed")

    event.listen(engine, "commit", die)
    try:
        await job.step()
    finally:
        event.remove(engine, "commit", die)


def _then_away(leases: Leases) -> Any:
    right = leases.cover

    async def cover(claims: Any) -> dict[str, int]:
        granted = await right(claims)
        leases.away = True
        return granted

    return cover


async def test_two_workers_that_read_the_same_late_win_charge_it_once(world: World) -> None:
    one, log, leases = await world.worker(0)
    two, _, _ = await world.worker(0)
    await leases.set_limits(limits(1_000))
    world.partitions.add(0, late())
    log.between = [two]
    assert await one.step()
    assert (world.money(), await own(leases)) == ((80, 0), [(80, 80)])
    await one.close()
    await two.close()


async def test_workers_of_two_partitions_charge_the_same_line_item_up_to_its_budget(world: World) -> None:
    one, _, leases = await world.worker(0)
    two, _, _ = await world.worker(1)
    await leases.set_limits(limits(160))
    for number in (1, 2):
        world.partitions.add(0, late(number))
        world.partitions.add(1, late(number + 10))
        await one.step()
        await two.step()
    assert (world.money(), await own(leases)) == ((160, 160), [(160, 160)])
    await one.close()
    await two.close()


async def test_the_book_waits_for_a_lease_store_that_is_away_as_long_as_bidders_do(world: World) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(1_000))
    await job.step()
    leases.away = True
    for number, waits_ms in ((1, SILENCE_MS_MAX), (2, SILENCE_MS_MAX + 1)):
        world.partitions.add(0, late(number))
        world.clock.advance(waits_ms)
        with pytest.raises(UnavailableError):
            await job.step()
        if number == 1:
            with world.views() as session:
                assert BookRepository(session).transactions() == 0
            leases.away = False
            await job.step()
            assert world.money() == (80, 0)
            leases.away = True
    assert world.money() == (80, 80)  # entered, for what the store cannot be told yet
    leases.away = False
    await job.step()
    assert (world.money(), await own(leases)) == ((80, 80), [(80, 80)])
    await job.close()


async def test_what_is_spent_counts_before_what_is_left_when_the_stores_file_was_lost(world: World) -> None:
    job, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(200))
    world.partitions.add(0, encode(notice(1)), late(2))
    await job.step()
    await job.close()
    for path in world.path.glob("leases.db*"):
        path.unlink()
    heir, _, leases = await world.worker(0, 1)
    await leases.set_limits(limits(200))
    world.partitions.add(0, late(3))
    await heir.step()
    assert world.money() == (160, 80)
    world.partitions.add(0, late(4, 40))
    await heir.step()
    assert (world.money(), await own(leases)) == ((200, 80), [(120, 120)])
    await heir.close()


async def test_a_lost_file_is_told_whose_money_was_spent_before_it_knows_any_limits(world: World) -> None:
    """As docs/reliability.md has it: of a file that is lost the ledger worker is started first."""
    job, _, leases = await world.worker(0, 1)
    world.partitions.add(0, encode(notice(1)))
    await job.step()
    await job.close()
    for path in world.path.glob("leases.db*"):
        path.unlink()
    heir, _, leases = await world.worker(0, 1)
    world.partitions.add(0, encode(notice(2, line_item_id=5, lease_id=f"7-5-{FACTS.day}")))  # nothing of it in the book
    await heir.step()
    await leases.set_limits(limits(None, 200))
    assert await lease(leases, 100, item=4) == 40  # of the campaign's 200
    await heir.close()
