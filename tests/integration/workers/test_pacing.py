"""The pacing worker against the embedded stores: from the book to the controls that bidders read."""

from collections.abc import AsyncIterator
from itertools import chain
from math import exp
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update

from dsp.cache.port import LeaseWant, Limit
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.pacing import columns, plan
from dsp.pacing.columns import PACED_BLOB
from dsp.pacing.controller import CONTROLS_BLOB, Controls, Law, decode
from dsp.pacing.revaluation import REVALUED_BLOB, Revalued
from dsp.pacing.revaluation import encode as encode_revalued
from dsp.pacing.traffic import TRAFFIC_BLOB, Curves, Traffic
from dsp.pacing.traffic import encode as encode_traffic
from dsp.store.book import DayResult
from dsp.store.catalog import load_catalogue
from dsp.store.tables import AdvertiserRow, LineItemRow
from dsp.workers.config import WorkersConfig
from dsp.workers.controls import Turn, next_controls
from dsp.workers.pacing import PacingJob
from tests.integration.workers.conftest import NOON_MS, TODAY, World


def new_job(world: World, **settings: Any) -> PacingJob:
    workers = WorkersConfig(**settings)
    return PacingJob(world.views, world.leases, world.blobs, world.clock, workers)


@pytest.fixture
async def job(world: World) -> AsyncIterator[PacingJob]:
    """A worker with the shipped settings."""
    made = new_job(world)
    await made.open()
    yield made
    await made.close()


async def controls(world: World) -> Controls:
    found = await world.blobs.get(CONTROLS_BLOB)
    assert found is not None
    return decode(found[1])


async def steps(world: World, job: PacingJob, seconds: int) -> Controls:
    for _ in range(seconds):
        world.clock.advance(1_000)
        await job.step()
    return await controls(world)


async def test_spend_over_plan_is_held_and_under_plan_released(world: World, job: PacingJob) -> None:
    campaign = world.campaign(world.advertiser())
    fast = world.line_item(campaign, budget={"total_micros": 1_200_000})
    slow = world.line_item(campaign, budget={"total_micros": 1_200_000})
    free = world.line_item(campaign)
    with world.sessions.begin() as session:  # as one that was active before it had to have a budget
        session.execute(update(LineItemRow).where(LineItemRow.id == free).values(budget_total_micros=None))
    for second in range(40):
        world.spend(campaign, fast, 30_000)
        found = await steps(world, job, 1)
        assert found.line_items[fast].planned_micros == 10_000 * (second + 1)
    assert found.line_items[fast].multiplier < 0.5
    assert found.line_items[fast].spent_micros == 1_200_000
    assert (
        1.0 < found.line_items[slow].multiplier < 1.02
    )  # nothing was bought yet: about as far as value is known to go
    left = [found.line_items[number].left_micros for number in (fast, slow, free)]
    assert left == [0, 1_200_000, None]
    assert found.line_items[free].planned_micros is None
    assert found.line_items[free].multiplier == found.line_items[slow].multiplier


async def test_a_campaign_holds_its_line_items_but_not_the_hurried(world: World, job: PacingJob) -> None:
    campaign = world.campaign(world.advertiser(), budget={"total_micros": 1_200_000})
    even = world.line_item(campaign)
    hurried = world.line_item(campaign, pacing="asap", budget={"total_micros": 500_000})
    first = await steps(world, job, 1)
    for _ in range(30):
        world.spend(campaign, even, 40_000)
        found = await steps(world, job, 1)
    assert found.campaigns[campaign].spent_micros == 1_200_000
    assert found.campaigns[campaign].multiplier < 0.1 * first.campaigns[campaign].multiplier
    assert found.line_items[even].multiplier == found.campaigns[campaign].multiplier
    assert 1.0 < found.line_items[hurried].multiplier < 1.02
    assert found.line_items[even].left_micros == found.line_items[hurried].left_micros == 0  # the campaign's


async def test_a_campaign_that_its_line_items_cannot_exhaust_does_not_hold_back_the_late(
    world: World, job: PacingJob
) -> None:
    campaign = world.campaign(world.advertiser(), budget={"total_micros": 1_700_000})
    late = world.line_item(campaign, budget={"total_micros": 1_200_000})
    hurried = world.line_item(campaign, pacing="asap", budget={"total_micros": 500_000})
    before = await steps(world, job, 10)
    for _ in range(10):
        world.spend(campaign, hurried, 50_000)
        found = await steps(world, job, 1)
    assert found.campaigns[campaign].spent_micros > 1.5 * (found.campaigns[campaign].planned_micros or 0)
    assert found.campaigns[campaign].level == before.campaigns[campaign].level  # it learns nothing of what others hold
    assert 1.0 < found.line_items[late].multiplier < 1.02  # nothing was bought yet
    # Who lowers the campaign's budget has it shared, so that it lasts.
    world.update(Kind.CAMPAIGN, campaign, budget={"total_micros": 1_600_000})
    found = await steps(world, job, 1)
    assert found.line_items[late].multiplier == found.campaigns[campaign].multiplier < 1.0


async def test_a_campaign_s_even_plan_does_not_stretch_a_flight_of_its_own_budget(world: World, job: PacingJob) -> None:
    """Two flights one after the other, the first with twice the money: the campaign's total is theirs together."""
    begin, middle, end = (NOON_MS + seconds * 1_000 for seconds in (0, 60, 120))
    campaign = world.campaign(world.advertiser(), budget={"total_micros": 3_000_000})
    flight = {"start_ms": begin, "end_ms": middle}
    first = world.line_item(campaign, budget={"total_micros": 2_000_000}, flight=flight)
    world.line_item(campaign, budget={"total_micros": 1_000_000}, flight={"start_ms": middle, "end_ms": end})
    for _ in range(50):
        world.spend(campaign, first, 2_000_000 // 60)
        found = await steps(world, job, 1)
    assert found.campaigns[campaign].spent_micros > 1.3 * (found.campaigns[campaign].planned_micros or 0)
    assert found.line_items[first].spent_micros == pytest.approx(found.line_items[first].planned_micros, rel=0.01)
    assert found.line_items[first].multiplier == pytest.approx(exp(found.line_items[first].level_now))


@pytest.mark.parametrize(("daily_micros", "holds"), [(1_000_000, False), (999_950, False), (900_000, True)])
async def test_a_daily_budget_holds_where_those_below_it_come_to_more(
    world: World, daily_micros: int, holds: bool
) -> None:
    """Two line items of half a million a day, and a paused one, which takes none of today's."""
    flight = {"start_ms": NOON_MS - 36 * 3_600_000, "end_ms": NOON_MS + 36 * 3_600_000}
    campaign = world.campaign(world.advertiser(), flight=flight, budget={"daily_micros": daily_micros})
    fast, _, paused = [world.line_item(campaign, flight=flight, budget={"daily_micros": 500_000}) for _ in range(3)]
    world.spend(campaign, paused, 400_000, day=TODAY - 1)
    world.set_status(Kind.LINE_ITEM, paused, Status.PAUSED)
    assert await held_back(world, campaign, fast) is holds


@pytest.mark.parametrize(
    ("today_micros", "tomorrow_micros", "total_micros", "holds"),
    [
        (2_000_000, 1_000_000, 3_000_000, False),
        (2_000_000, 1_000_000, 2_900_000, True),
        (1_000_000, 2_000_000, 2_400_000, False),  # its even plan has more for today than they have
    ],
)
async def test_a_total_holds_where_those_below_it_come_to_more_on_all_days_together(
    world: World, today_micros: int, tomorrow_micros: int, total_micros: int, holds: bool
) -> None:
    begin, middle, end = (NOON_MS + hours * 3_600_000 for hours in (-12, 12, 36))
    flight = {"start_ms": begin, "end_ms": end}
    campaign = world.campaign(world.advertiser(), flight=flight, budget={"total_micros": total_micros})
    today, tomorrow = {"start_ms": begin, "end_ms": middle}, {"start_ms": middle, "end_ms": end}
    fast = world.line_item(campaign, flight=today, budget={"total_micros": today_micros})
    world.line_item(campaign, flight=tomorrow, budget={"total_micros": tomorrow_micros})
    assert await held_back(world, campaign, fast) is holds


MORNING, AFTERNOON = (
    {"dayparts": [{"weekday": day, "start_hour": start, "end_hour": start + 12} for day in range(7)]}
    for start in (0, 12)
)
SINCE_SIX = {"flight": {"start_ms": NOON_MS - 6 * 3_600_000}}
UNTIL_SIX = {"flight": {"start_ms": NOON_MS - 36 * 3_600_000, "end_ms": NOON_MS + 6 * 3_600_000}}
PAUSED = {"status": Status.PAUSED}


@pytest.mark.parametrize(
    ("members", "planned_micros"),  # at noon, of 900,000 a day
    [
        ([{}, {}], 450_000),
        ([AFTERNOON, AFTERNOON], 0),
        ([AFTERNOON, MORNING], 450_000),
        ([AFTERNOON, {}], 450_000),
        ([AFTERNOON, PAUSED], 0),
        ([{"pacing": "ahead"}, {"pacing": "ahead"}], 562_500),
        ([{"pacing": "ahead"}, {}], 450_000),
        ([{"pacing": "ahead"}, PAUSED], 562_500),
        ([SINCE_SIX, SINCE_SIX], 300_000),
        ([SINCE_SIX, {}], 450_000),
        ([UNTIL_SIX, UNTIL_SIX], 600_000),
        ([UNTIL_SIX, {}], 450_000),
    ],
)
def test_a_campaign_is_planned_for_while_any_of_its_line_items_may_bid(
    world: World, members: list[dict[str, Any]], planned_micros: int
) -> None:
    flight = {"start_ms": NOON_MS - 36 * 3_600_000}
    campaign = world.campaign(world.advertiser(), flight=flight, budget={"daily_micros": 900_000})
    for member in members:
        terms = {"flight": flight, "budget": {"daily_micros": 500_000}, **member}
        status = terms.pop("status", Status.ACTIVE)
        world.set_status(Kind.LINE_ITEM, world.line_item(campaign, **terms), status)
    with world.views() as session:
        catalogue = load_catalogue(session)[1]
    found = next_controls(catalogue, [], Controls(at_ms=0), Curves(), Law(), NOON_MS)
    assert found.campaigns[campaign].planned_micros == planned_micros


async def held_back(world: World, campaign: int, line_item: int) -> bool:
    """Return whether a campaign learns to bid less of what its line item spends too fast."""
    job = new_job(world)
    await job.open()
    before = await steps(world, job, 1)
    for _ in range(10):
        world.spend(campaign, line_item, 200_000)
        after = await steps(world, job, 1)
    await job.close()
    return after.campaigns[campaign].level < before.campaigns[campaign].level


@pytest.mark.parametrize(
    ("kind", "target_micros", "rule", "ratio"),
    [
        ("cpm", 2_000_000, Status.ACTIVE, 1.0),  # impressions are what was expected
        ("cpc", 500_000, Status.ACTIVE, 0.5),
        ("cpa", 5_000_000, Status.ACTIVE, 1.5),
        ("roas", 2_000_000, Status.ACTIVE, 2.0),  # half of the conversions' value may be spent on them
        ("roas", 2_000_000, Status.PAUSED, None),  # what they are worth is not known any more
    ],
)
def test_a_target_is_held_against_what_its_goal_counts(
    world: World, kind: str, target_micros: int, rule: Status, ratio: float | None
) -> None:
    """A thousand clicks and 300 conversions worth 4,000, of impressions that were expected to be worth 1,000."""
    advertiser = world.advertiser()
    value = world.create(Kind.CONVERSION_RULE, advertiser_id=advertiser, value_micros=10_000_000)
    campaign = world.campaign(advertiser)
    line_item = world.line_item(campaign, goal={"kind": kind, "target_micros": target_micros})
    world.set_status(Kind.CONVERSION_RULE, value, rule)
    with world.views() as session:
        catalogue = load_catalogue(session)[1]
    days = [
        DayResult(advertiser, campaign, line_item, day, 10**8, 0, 1_000, 5 * 10**8, 500, 150, 2 * 10**9)
        for day in (TODAY - 1, TODAY)
    ]
    found = next_controls(catalogue, days, Controls(at_ms=0), Curves(), Law(), NOON_MS).line_items[line_item]
    assert found.value_ratio == pytest.approx(ratio or 1.0, rel=0.05)
    assert (found.mu_target is None) == (ratio is None)


@pytest.mark.parametrize("spent", [0, 1_000])
def test_who_bought_what_nobody_valued_is_not_taken_for_one_who_bought_nothing(world: World, spent: int) -> None:
    advertiser = world.advertiser()
    campaign = world.campaign(advertiser)
    line_item = world.line_item(campaign)
    with world.views() as session:
        catalogue = load_catalogue(session)[1]
    days = [DayResult(advertiser, campaign, line_item, TODAY, spent, 0, 1, 0, 0, 0, 0)] if spent else []
    found = next_controls(catalogue, days, Controls(at_ms=0), Curves(), Law(), NOON_MS).line_items[line_item]
    assert (found.mu_target is None) == bool(spent)


async def test_spend_of_earlier_days_counts_on_the_flight_not_on_the_day(world: World, job: PacingJob) -> None:
    flight = {"start_ms": NOON_MS - 86_400_000, "end_ms": NOON_MS + 86_400_000}
    campaign = world.campaign(world.advertiser(), flight=flight)
    line_item = world.line_item(campaign, flight=flight, budget={"total_micros": 4_000, "daily_micros": 2_900})
    world.spend(campaign, line_item, 1_000, day=TODAY - 1)
    world.spend(campaign, line_item, 200)
    found = await steps(world, job, 1)
    # 3,000 are left for today and tomorrow morning; half of today, which is a third of that, is over.
    assert found.line_items[line_item].planned_micros == pytest.approx(1_000 + 1_000, abs=2)
    assert found.line_items[line_item].left_micros == 2_700


async def test_a_paused_line_item_waits_at_its_level(world: World, job: PacingJob) -> None:
    campaign = world.campaign(world.advertiser())
    line_item = world.line_item(campaign, budget={"total_micros": 1_200_000})
    for _ in range(20):
        world.spend(campaign, line_item, 20_000)
        before = await steps(world, job, 1)
    world.set_status(Kind.LINE_ITEM, line_item, Status.PAUSED)
    after = await steps(world, job, 20)
    waits = after.line_items[line_item]
    assert waits.level == before.line_items[line_item].level
    assert (waits.spent_micros, waits.impressions, waits.left_micros) == (400_000, 20, 800_000)
    world.set_status(Kind.LINE_ITEM, line_item, Status.ACTIVE)
    resumed = await steps(world, job, 3)
    assert resumed.line_items[line_item].level > before.line_items[line_item].level


async def test_a_restart_goes_on_at_the_same_level(world: World) -> None:
    campaign = world.campaign(world.advertiser())
    line_item = world.line_item(campaign, budget={"total_micros": 1_200_000})
    job = new_job(world)
    await job.open()
    for _ in range(20):
        world.spend(campaign, line_item, 15_000)
        before = await steps(world, job, 1)
    await job.close()
    again = new_job(world)
    await again.open()
    world.spend(campaign, line_item, 15_000)
    after = await steps(world, again, 1)
    assert not after.line_items[line_item].cold
    assert after.line_items[line_item].level == pytest.approx(before.line_items[line_item].level, abs=0.2)
    await again.close()


async def test_levels_are_scaled_once_by_what_bidders_tell_of_values(world: World) -> None:
    campaign = world.campaign(world.advertiser())
    line_item = world.line_item(campaign, budget={"total_micros": 1_200_000})
    job, told = new_job(world), Revalued(before="a", after="b", log_ratios={line_item: 1.0})
    await job.open()
    for _ in range(20):
        world.spend(campaign, line_item, 15_000)
        before = await steps(world, job, 1)

    async def predicted_by() -> str:
        found = await world.blobs.get(PACED_BLOB)
        assert found is not None
        return columns.decode(found[1]).predicted_by

    assert await predicted_by() == ""
    await world.blobs.put(REVALUED_BLOB, encode_revalued(told))
    after = await steps(world, job, 1)
    assert await predicted_by() == "b"
    moved = after.line_items[line_item].level - before.line_items[line_item].level
    assert moved == pytest.approx(-1.0, abs=0.2)
    await job.close()
    again = new_job(world)  # it reads what was told as well
    await again.open()
    other = msgspec.structs.replace(told, log_ratios={line_item: 1.1})
    await world.blobs.put(REVALUED_BLOB, encode_revalued(other))  # another bidder's word of the same
    restarted = await steps(world, again, 1)
    assert await predicted_by() == "b"
    assert restarted.line_items[line_item].level == pytest.approx(after.line_items[line_item].level, abs=0.2)
    await world.blobs.put(REVALUED_BLOB, b"\xc1 rubbish")
    await steps(world, again, 1)
    assert await predicted_by() == "b"
    await again.close()


async def test_rubbish_in_the_blob_is_a_cold_start(world: World) -> None:
    line_item = world.line_item(world.campaign(world.advertiser()), budget={"total_micros": 1_200_000})
    await world.blobs.put(CONTROLS_BLOB, b"\xc1 rubbish")
    job = new_job(world)
    await job.open()
    found = await steps(world, job, 1)
    assert found.line_items[line_item].cold
    await job.close()


async def test_a_budget_raised_in_flight_is_planned_at_once(world: World, job: PacingJob) -> None:
    campaign = world.campaign(world.advertiser())
    line_item = world.line_item(campaign, budget={"total_micros": 1_200_000})
    before = await steps(world, job, 60)
    world.update(Kind.LINE_ITEM, line_item, budget={"total_micros": 2_400_000})
    after = await steps(world, job, 1)
    assert before.line_items[line_item].planned_micros == 600_000
    assert after.line_items[line_item].planned_micros == 1_220_000


async def test_the_configured_traffic_curve_shapes_the_plan(world: World) -> None:
    flight = {"start_ms": NOON_MS - 12 * 3_600_000, "end_ms": NOON_MS + 12 * 3_600_000}
    campaign = world.campaign(world.advertiser(), flight=flight)
    line_item = world.line_item(campaign, flight=flight, budget={"total_micros": 1_000_000})
    job = new_job(world, traffic_curve=(1.0,) * 12 + (3.0,) * 12)
    await job.open()
    world.clock.advance(-1_000)
    found = await steps(world, job, 1)
    assert found.line_items[line_item].planned_micros == 250_000
    await job.close()


async def test_the_learned_traffic_curve_shapes_the_plan_in_the_advertiser_s_hours(
    world: World, job: PacingJob
) -> None:
    """Traffic comes from noon to midnight UTC; in Kolkata, half past five ahead, the flight's first half has none."""
    advertiser = world.advertiser(timezone="Asia/Kolkata")
    flight = {"start_ms": NOON_MS - 12 * 3_600_000, "end_ms": NOON_MS + 12 * 3_600_000}
    campaign = world.campaign(advertiser, flight=flight, budget={"total_micros": 2_000_000})
    line_item, paused = [world.line_item(campaign, flight=flight, budget={"total_micros": 1_000_000}) for _ in range(2)]
    world.set_status(Kind.LINE_ITEM, paused, Status.PAUSED)
    world.clock.advance(-1_000)
    flat = await steps(world, job, 1)
    assert flat.line_items[line_item].planned_micros == 500_000

    traffic = Traffic()
    traffic.know([line_item, paused])
    for hour in range(12, 24):
        for at in range(1_000):
            traffic.add(NOON_MS - 86_400_000 + (hour - 12) * 3_600_000 + at * 3_600, [line_item])
    for hour in range(12):  # that of others tells that these hours were watched; what is paused buys none of it
        for at in range(1_000):
            traffic.add(NOON_MS - 43_200_000 + hour * 3_600_000 + at * 3_600, [paused])
    await world.blobs.put(TRAFFIC_BLOB, encode_traffic(traffic))
    learned = await steps(world, job, 1)
    planned = learned.line_items[line_item].planned_micros
    assert planned is not None
    assert planned < 80_000  # what was assumed before weighs a little, and an hour of theirs has parts of two of ours
    of_campaign = learned.campaigns[campaign].planned_micros
    assert of_campaign is not None
    assert of_campaign < 160_000

    await world.blobs.put(TRAFFIC_BLOB, b"\xc1")
    kept = (await steps(world, job, 1)).line_items[line_item].planned_micros
    assert kept is not None
    assert planned <= kept < 80_000


async def test_days_of_traffic_curves_that_are_no_more_are_not_kept(world: World, job: PacingJob) -> None:
    """Curves come every minute and hardly two are alike: in half a day a hundred line items had 200 MB."""
    campaign = world.campaign(world.advertiser(), budget={"daily_micros": 2_000_000})
    line_items = [world.line_item(campaign, budget={"daily_micros": 1_000_000}) for _ in range(3)]
    traffic = Traffic()
    traffic.know(line_items)
    for hour in range(10):
        for at in range(100 * (1 + hour % 2)):
            traffic.add(NOON_MS - 43_200_000 + hour * 3_600_000 + at, line_items)
        await world.blobs.put(TRAFFIC_BLOB, encode_traffic(traffic))
        await steps(world, job, 1)
    assert 0 < plan._day.cache_info().currsize <= len(line_items) + 1


@pytest.mark.parametrize("set_back_ms", [0, 86_400_000])
async def test_what_a_dead_bidder_held_returns_to_the_budgets(world: World, set_back_ms: int) -> None:
    """Within half a minute, also where the worker's clock is set right meanwhile."""
    line_item, campaign = 5, 2
    job = new_job(world, lease_holder_timeout_ms=30_000)
    await job.open()
    await world.leases.set_limits([Limit(line_item, campaign, 1_000_000, None, None, None)])
    want = [LeaseWant(line_item, TODAY, 1_000_000)]
    epoch = await world.leases.register("dies", world.clock.now_ms())
    held = await world.leases.sync(epoch, world.clock.now_ms(), want, {}, 0)
    taken = held.leases[0].granted_micros
    assert taken > 0
    await job.step()
    world.clock.step(-set_back_ms)
    for _ in range(60):  # the ledger reads on, nothing more was billed
        world.clock.advance(6_000)
        await world.leases.settle({}, world.clock.now_ms())
        await job.step()
    epoch = await world.leases.register("lives", world.clock.now_ms())
    granted = 0
    for _ in range(50):
        world.clock.advance(100)
        report = await world.leases.sync(epoch, world.clock.now_ms(), want, {}, 0)
        granted = max(granted, sum(lease.granted_micros for lease in report.leases))
    assert granted == 1_000_000
    await job.close()


def gauge(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def overspent() -> float:
    return gauge("dsp_overspent_micros")


async def test_what_is_charged_beyond_a_hard_budget_is_shown(world: World, job: PacingJob) -> None:
    campaign = world.campaign(world.advertiser(), budget={"total_micros": 900_000})
    daily = world.line_item(campaign, budget={"daily_micros": 500_000, "total_micros": 2_000_000})
    free = world.line_item(campaign)
    world.spend(campaign, daily, 600_000, day=TODAY - 1)  # what the budget was then is not known
    await job.step()
    assert overspent() == 0.0
    world.spend(campaign, free, 300_000)  # the campaign's to its last micro
    await job.step()
    assert overspent() == 0.0
    world.spend(campaign, free, 70)
    await job.step()
    assert overspent() == 70.0
    world.spend(campaign, daily, 500_003)  # today, and 500,003 more of the campaign's
    await job.step()
    assert overspent() == 3.0 + 500_073.0


async def test_what_was_spent_before_today_counts_and_late_news_of_it_comes_to_be_known(
    world: World, job: PacingJob
) -> None:
    """A million, of which earlier days took what they took: the plan is for what that leaves."""
    flight = {"start_ms": NOON_MS - 5 * 86_400_000, "end_ms": NOON_MS + 43_200_000}
    campaign = world.campaign(world.advertiser(), flight=flight)
    line_item = world.line_item(campaign, flight=flight, budget={"total_micros": 1_000_000})
    for days_ago, micros in ((5, 300_000), (4, 200_000), (1, 100_000)):
        world.spend(campaign, line_item, micros, TODAY - days_ago)
    found = (await steps(world, job, 1)).line_items[line_item]
    assert (found.spent_micros, found.impressions, found.left_micros) == (600_000, 3, 400_000)
    assert found.planned_micros == 600_000 + 200_005  # half of the day is over
    world.spend(campaign, line_item, 50_000, TODAY - 4)
    world.spend(campaign, line_item, 10_000)
    assert (await steps(world, job, 1)).line_items[line_item].spent_micros == 610_000
    world.clock.advance(300_000)
    assert (await steps(world, job, 1)).line_items[line_item].spent_micros == 660_000
    world.clock.advance(86_400_000)
    assert (await steps(world, job, 1)).line_items[line_item].spent_micros == 660_000


async def test_a_campaign_that_cannot_be_paced_is_closed_and_the_others_go_on(world: World) -> None:
    """A time zone that another host knew, or that was taken out of the database of time zones."""
    advertisers = [world.advertiser(timezone=name) for name in ("UTC", "Europe/Berlin")]
    campaigns = [world.campaign(one, budget={"total_micros": 1_200_000}) for one in advertisers]
    good, bad = [world.line_item(one, budget={"total_micros": 1_200_000}) for one in campaigns]
    job = new_job(world)
    await job.open()
    for _ in range(20):
        world.spend(campaigns[1], bad, 20_000)
        before = await steps(world, job, 1)

    def move(timezone: str) -> None:
        with world.sessions.begin() as session:
            session.execute(update(AdvertiserRow).where(AdvertiserRow.id == advertisers[1]).values(timezone=timezone))
        world.update(Kind.ADVERTISER, advertisers[0], name=f"not {timezone}")  # so that the catalogue is read

    move("Mars/Olympus_Mons")
    world.create(Kind.CAMPAIGN, advertiser_id=advertisers[1], flight={"start_ms": NOON_MS}, budget={"daily_micros": 1})
    job = new_job(world)
    await job.open()
    world.spend(campaigns[0], good, 30_000)
    world.spend(campaigns[1], bad, 2_000_000)
    closed = await steps(world, job, 2)
    assert closed.line_items[good].planned_micros == 220_000
    assert not closed.line_items[good].closed
    learned = msgspec.structs.replace(before.line_items[bad], multiplier=0.0)
    assert closed.line_items[bad] == learned
    assert (gauge("dsp_campaigns_closed"), overspent()) == (2.0, 2 * 1_200_000.0)  # totals need no day
    found = await world.blobs.get(PACED_BLOB)
    assert found is not None
    paced = columns.align(columns.decode(found[1]), np.array([good, bad]))
    assert paced.multiplier.tolist() == [closed.line_items[good].multiplier, 0.0]

    move("Europe/Berlin")
    job = new_job(world)
    await job.open()
    again = await steps(world, job, 1)
    assert again.line_items[bad].multiplier > 0.0
    assert again.line_items[bad].planned_micros == 230_000
    assert (again.campaigns[3].cold, gauge("dsp_campaigns_closed")) == (True, 0.0)
    await job.close()


async def test_what_the_archived_spent_counts_for_their_campaign_and_stops_nobody(world: World, job: PacingJob) -> None:
    campaign, gone = [world.campaign(world.advertiser(), budget={"total_micros": 1_200_000}) for _ in range(2)]
    stays, archived, of_gone = [world.line_item(one) for one in (campaign, campaign, gone)]
    for one, line_item in ((campaign, stays), (campaign, archived), (gone, of_gone)):
        world.spend(one, line_item, 100_000)
    world.set_status(Kind.LINE_ITEM, archived, Status.ARCHIVED)
    world.set_status(Kind.CAMPAIGN, gone, Status.ARCHIVED)
    found = await steps(world, job, 1)
    assert {number: control.spent_micros for number, control in found.campaigns.items()} == {campaign: 200_000}
    assert {number: control.spent_micros for number, control in found.line_items.items()} == {stays: 100_000}
    assert found.line_items[stays].left_micros == 1_000_000


def test_everybody_has_a_turn_and_nobody_two() -> None:
    turn, seen = Turn(), []
    for _ in range(4):
        turn = turn.after(15_001)
        seen.append([campaign for campaign in range(1, 9) if turn.has(campaign)])
    assert sorted(chain.from_iterable(seen)) == list(range(1, 9))
    assert turn == Turn(0, 4)
    assert Turn(3, 4).after(5_000) == Turn().after(0) == Turn(0, 1)


async def test_a_large_catalogue_is_stepped_in_turns(
    world: World, job: PacingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two campaigns of two line items where three are stepped at once: each campaign every other second."""
    monkeypatch.setattr("dsp.workers.controls.STEP_LINE_ITEMS", 3)
    campaigns = [world.campaign(world.advertiser()) for _ in range(2)]
    items = {one: [world.line_item(one, budget={"total_micros": 1_200_000}) for _ in range(2)] for one in campaigns}

    async def stepped_at() -> list[int]:
        world.clock.advance(1_000)
        await job.step()
        found = await world.blobs.get(PACED_BLOB)
        assert found is not None
        sent = columns.decode(found[1])
        assert np.frombuffer(sent.line_item_ids, "<i8").tolist() == sorted(chain.from_iterable(items.values()))
        assert sent.at_ms == world.clock.now_ms()
        assert sorted(job.controls.campaigns) == campaigns  # whose turn it is not keeps what it has learned
        return [(job.controls.line_items[items[one][0]].at_ms - NOON_MS) // 1_000 for one in campaigns]

    first = await stepped_at()
    assert first == [1, 1]  # nobody waits for the first control
    later = [await stepped_at() for _ in range(4)]
    assert all(max(ages) - min(ages) == 1 for ages in later)
    assert [max(ages) for ages in later] == [2, 3, 4, 5]
    for second in range(5, 40):
        world.spend(campaigns[second % 2], items[campaigns[second % 2]][0], 60_000)
        await stepped_at()
    assert all(job.controls.line_items[items[one][0]].multiplier < 0.5 for one in campaigns)
    new = world.line_item(campaigns[0], budget={"total_micros": 1_200_000})
    items[campaigns[0]].append(new)
    await stepped_at()
    assert new in job.controls.line_items
