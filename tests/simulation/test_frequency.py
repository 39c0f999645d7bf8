"""Caps hold for all but one user in a thousand though notices come twice, late, or not at all, and processes die."""

import pytest

from tests.simulation.frequency_world import SCENARIOS, simulate

USERS = 600
VIOLATION_RATE_MAX = 0.001


@pytest.mark.parametrize("scenario", ["no faults", "all three, killed every hour"])
async def test_fewer_than_one_user_in_a_thousand_sees_too_much(scenario: str) -> None:
    result = await simulate(SCENARIOS[scenario], USERS, seed=11)
    assert result.violation_rate < VIOLATION_RATE_MAX
    assert result.users > 0.95 * USERS
    assert result.refused > result.impressions / 4  # the caps are tight enough to matter


async def test_the_world_sees_violations_where_nothing_is_counted() -> None:
    result = await simulate(SCENARIOS["no faults"]._replace(lost=1.0), 50, seed=11, pending_exposure_ms=1)
    assert result.violation_rate > 0.5
