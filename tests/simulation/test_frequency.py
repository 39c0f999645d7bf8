"""Caps hold for all but one user in a thousand though notices come twice, late, or not at all, and processes die."""

from tests.simulation.frequency_world import SCENARIOS, simulate

VIOLATION_RATE_MAX = 0.001


async def test_nobody_sees_too_much_while_notices_come() -> None:
    result = await simulate(SCENARIOS["no faults"], 300, seed=11)
    assert result.over == 0
    assert result.users > 280
    assert result.refused > result.impressions / 4  # the caps are tight enough to matter


async def test_fewer_than_one_user_in_a_thousand_sees_too_much_in_the_worst_of_days() -> None:
    result = await simulate(SCENARIOS["all three, killed every hour"], 1_100, seed=11)
    assert result.violation_rate < VIOLATION_RATE_MAX, result


async def test_the_world_sees_violations_where_nothing_is_counted() -> None:
    result = await simulate(SCENARIOS["no faults"]._replace(lost=1.0), 50, seed=11, pending_exposure_ms=1)
    assert result.violation_rate > 0.5
