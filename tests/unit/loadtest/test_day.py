"""The simulated day's traffic, orders and report, without running it."""

from itertools import pairwise
from pathlib import Path

import pytest

from dsp.kernel.clock import MS_PER_HOUR
from loadtest.day.orders import DATE, ORDERS, ZONES, midnight_ms, tables
from loadtest.day.report import Delivery, deliveries, draw, summary
from loadtest.day.simulate import Outcome, Sample
from loadtest.day.traffic import CURVE, arrivals, relative
from loadtest.reconcile import Reconciliation

DAY_MS = 24 * MS_PER_HOUR
MIDNIGHT_MS = 20_249 * DAY_MS


def test_traffic_follows_the_curve() -> None:
    found = list(arrivals(1, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS, 100_000.0))
    by_hour = [0] * 24
    for at_ms in found:
        by_hour[(at_ms - MIDNIGHT_MS) // MS_PER_HOUR] += 1
    assert len(found) == pytest.approx(100_000, rel=0.05)
    mean = sum(CURVE) / 24
    for hour, count in enumerate(by_hour):
        assert count / len(found) * 24 == pytest.approx(CURVE[hour] / mean, rel=0.35)
    assert max(by_hour) > 4 * min(by_hour)


def test_traffic_is_in_order_and_the_same_for_the_same_seed_alone() -> None:
    found = list(arrivals(7, MIDNIGHT_MS, MIDNIGHT_MS + MS_PER_HOUR, 50_000.0))
    assert found == list(arrivals(7, MIDNIGHT_MS, MIDNIGHT_MS + MS_PER_HOUR, 50_000.0))
    assert found != list(arrivals(8, MIDNIGHT_MS, MIDNIGHT_MS + MS_PER_HOUR, 50_000.0))
    assert all(before <= after for before, after in pairwise(found))
    assert found[0] >= MIDNIGHT_MS
    assert found[-1] < MIDNIGHT_MS + MS_PER_HOUR


def test_the_curve_is_smooth_and_met_in_the_middle_of_each_hour() -> None:
    mean = sum(CURVE) / 24
    for hour, weight in enumerate(CURVE):
        assert relative(MIDNIGHT_MS + hour * MS_PER_HOUR + MS_PER_HOUR // 2) == pytest.approx(weight / mean)
    steps = [relative(MIDNIGHT_MS + minute * 60_000) for minute in range(2 * 24 * 60)]
    assert max(abs(after - before) for before, after in pairwise(steps)) < 0.01
    assert sum(steps[: 24 * 60]) / (24 * 60) == pytest.approx(1.0, abs=0.001)


def test_days_begin_when_advertisers_say() -> None:
    assert {midnight_ms(one) % DAY_MS // 60_000 for one in ZONES} == {3 * 60, 22 * 60, 20 * 60 + 30}
    assert DATE == (2025, 6, 10)


def test_the_orders_differ_in_what_matters() -> None:
    assert {order.kind for order in ORDERS} == {"cpm", "cpc", "cpa"}
    assert {order.pacing for order in ORDERS} == {"even", "ahead"}
    assert {order.bound for order in ORDERS} == {"plan", "traffic", "campaign"}
    assert {order.advertiser for order in ORDERS} == set(ZONES)
    assert len({order.name for order in ORDERS}) == len(ORDERS) == len(tables()["line_item"])


def outcome(samples: list[Sample]) -> Outcome:
    names = [order.name for order in ORDERS]
    return Outcome(
        samples=samples,
        supply=dict.fromkeys(names, 100),
        impressions=dict.fromkeys(names, 20),
        requests=1,
        overspent=[],
        imbalance_micros=0,
        reconciliation=Reconciliation(
            billing_acknowledged=0, other_acknowledged=0, charged=0, missing=0, duplicated=0, wrong_cost=0,
            unexplained=0, events_missing=0, unacknowledged=0,
        ),
        digest="",
    )  # fmt: skip


def test_gaps_are_parts_of_the_days_plan() -> None:
    samples = [Sample("spree-clicks", hour, 90 * hour, 100 * hour) for hour in range(1, 24)]
    (found,) = deliveries(outcome([*samples, Sample("spree-clicks", 24, 2_500, 2_400)]))
    assert found.planned_micros == 2_400
    assert found.worst == (pytest.approx(230 / 2_400), 23)
    assert not found.on_plan
    assert found.so_far == pytest.approx(0.1)
    assert found.supply == pytest.approx(5.0)


def test_two_hundredths_are_on_plan_and_no_more() -> None:
    def day(gap: int) -> Delivery:
        spent = [100 * hour + (gap if hour == 12 else 0) for hour in range(1, 25)]
        samples = [Sample("alborz-reach", hour, spent[hour - 1], 100 * hour) for hour in range(1, 25)]
        return deliveries(outcome(samples))[0]

    assert day(48).on_plan
    assert day(-48).on_plan
    assert not day(49).on_plan
    assert not day(-49).on_plan


def test_a_shared_budget_is_a_delivery_of_its_own(tmp_path: Path) -> None:
    names = ("spree-shop", "spree-apps", "spree-shared")
    samples = [Sample(name, hour, 10 * hour, 10 * hour) for name in names for hour in range(1, 25)]
    found = deliveries(outcome(samples))
    assert [(one.name, one.bound) for one in found] == [
        ("spree-shop", "campaign"), ("spree-apps", "campaign"), ("spree-shared", "plan"),
    ]  # fmt: skip
    figures = summary(outcome(samples), found)
    assert figures["worst_gap"] == 0.0
    draw(found, samples, tmp_path / "new" / "day.png")
    assert (tmp_path / "new" / "day.png").read_bytes().startswith(b"\x89PNG")
