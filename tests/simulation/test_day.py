"""A simulated day of the running platform: spend within 2 % of plan at every full hour (see loadtest.day).

2 % is of the day's plan: at each full hour of the advertiser's day, what the book has charged since midnight less what
the plan had for that instant, over what the plan had for the whole day.
"""

from pathlib import Path

import pytest

from dsp.kernel.clock import MS_PER_HOUR
from loadtest.day.orders import ORDERS, midnight_ms
from loadtest.day.report import TOLERANCE, Delivery, deliveries
from loadtest.day.simulate import Outcome, Simulation
from loadtest.day.traffic import relative
from tests.simulation import parity

pytestmark = pytest.mark.timeout(900)
BY_NAME = {order.name: order for order in ORDERS}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the day's platform leaves its data."""
    return tmp_path_factory.mktemp("day") / "data"


@pytest.fixture(scope="module")
def outcome(data: Path) -> Outcome:
    return Simulation(seed=1).run(keep=data)


@pytest.fixture(scope="module")
def days(outcome: Outcome) -> dict[str, Delivery]:
    return {day.name: day for day in deliveries(outcome)}


def test_what_has_the_traffic_is_on_plan_at_every_hour(days: dict[str, Delivery]) -> None:
    planned = {name: day for name, day in days.items() if day.bound == "plan"}
    assert len(planned) == 9
    for name, day in planned.items():
        assert len(day.gaps) == 24, name
        assert day.worst[0] <= TOLERANCE == 0.02, (name, day.worst)


def test_traffic_is_several_times_what_the_budgets_need(days: dict[str, Delivery]) -> None:
    """Or being on plan would be no feat, or no fault of pacing's."""
    for name, day in days.items():
        if day.bound == "plan":
            assert day.supply is not None
            assert 1.5 < day.supply < 20.0, name


def test_daily_budgets_are_planned_to_the_last_micro(days: dict[str, Delivery]) -> None:
    for name, order in BY_NAME.items():
        if order.daily is not None and days[name].bound != "campaign":
            assert days[name].planned_micros == pytest.approx(order.daily, rel=0.001), name
        if order.total is not None and order.days == 1:
            assert days[name].planned_micros == pytest.approx(order.total, rel=0.001), name


def test_what_lacks_traffic_spends_what_it_can(outcome: Outcome, days: dict[str, Delivery]) -> None:
    """Within its target, that is: its budget holds nothing back."""
    for name in [order.name for order in ORDERS if order.bound == "traffic"]:
        own = [sample for sample in outcome.samples if sample.name == name]
        assert 0 < days[name].spent_micros < days[name].planned_micros
        assert all(sample.level >= 0.0 for sample in own[1:]), name


def test_money_is_right(outcome: Outcome) -> None:
    assert outcome.overspent == []
    assert outcome.imbalance_micros == 0
    assert outcome.reconciliation.lost == 0
    assert outcome.reconciliation.charged > 10_000


def test_the_plan_has_the_shape_of_the_traffic(outcome: Outcome) -> None:
    """The curve was learned from yesterday's sampled requests, whose noise it cannot but follow a little."""
    begin_ms = midnight_ms("alborz")
    weights = [relative(begin_ms + minute * 60_000) for minute in range(24 * 60)]
    plan = {sample.hour: sample.planned_micros for sample in outcome.samples if sample.name == "alborz-reach"}
    for hour in range(1, 25):
        assert plan[hour] / plan[24] == pytest.approx(sum(weights[: hour * 60]) / sum(weights), abs=0.03)
    assert begin_ms % MS_PER_HOUR  # hours of Iran begin at half past


def test_features_are_the_same_offline_the_whole_day_through(outcome: Outcome, data: Path) -> None:
    """What the bidder read of every sampled request, its user's history included, made again from the log alone."""
    found = parity.compare(data)
    assert found.compared > 4_000
    assert found.differing == []
    # Or there would have been no history to agree about.
    assert found.with_history > 2_000
    assert found.with_two_campaigns > 1_000
    assert found.with_clicks > 100
    assert found.with_conversions > 10


def test_the_same_seed_is_the_same_day_byte_for_byte() -> None:
    def short(seed: int) -> Outcome:
        return Simulation(seed, requests_per_day=20_000, hours=1.25).run()

    first, again, other = short(3), short(3), short(4)
    assert first == again
    assert first.digest == again.digest != other.digest
    assert first.reconciliation.charged > 50
