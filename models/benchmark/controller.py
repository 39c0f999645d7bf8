"""The pacing benchmark's stream through the platform's own controller: as a line item's impressions, a day an episode.

What the pacing worker and a bidder do between them, on their own functions: the day's even plan, a control step every
second, or before each auction where they come more seldom, pacing of the bid down to what is left of the day, and the
price. The auctions are spread evenly over the day, and what a win cost is in the book by the next step. The goal is
what a unit of value may cost on average; what was expected counts as realised.
"""

import numpy as np

from dsp.catalog.terms import Budget, Flight, PacingMode
from dsp.kernel.clock import MS_PER_DAY
from dsp.pacing.bids import pace
from dsp.pacing.columns import ControlColumns
from dsp.pacing.controller import Bought, Control, Law, step
from dsp.pacing.plan import plan
from models.benchmark.auctions import Auctions, second_price_bid

_STEP_MS = 1_000  # WorkersConfig.pacing_step_ms
_FLIGHT = Flight(start_ms=0)
_LINE_ITEM, _ROW = np.array([1]), np.array([0])
_NONE_MICROS_CPM = np.zeros(1)


def replay(
    auctions: Auctions, length: int, budgets_micros_cpm: list[int], unit_micros_cpm: int, law: Law | None = None
) -> tuple[float, list[int]]:
    """Return (value won, spend of each day in micros per thousand); the control is carried over, money is not.

    Args:
        auctions: the stream.
        length: auctions in a day.
        budgets_micros_cpm: the daily budgets, in the unit of the market prices.
        unit_micros_cpm: what a unit of value may cost at most on average, in the same.
        law: how the controller acts; the platform's by default.
    """
    law = law or Law()
    control: Control | None = None
    won, wins, total, spends = 0.0, 0, 0, []
    for day, (episode, budget) in enumerate(zip(auctions.episodes(length), budgets_micros_cpm, strict=True)):
        start_ms, spent = day * MS_PER_DAY, 0
        today = plan(Budget(daily_micros=budget), _FLIGHT, (), "UTC", PacingMode.EVEN, (), total, start_ms)
        if today is None:
            raise AssertionError("a day with a budget has a plan")
        stepped_ms = start_ms - _STEP_MS
        for number, (value, market_price) in enumerate(
            zip(episode.values.tolist(), episode.prices_micros_cpm.tolist(), strict=True)
        ):
            now_ms = start_ms + number * MS_PER_DAY // len(episode)
            if now_ms >= stepped_ms + _STEP_MS or control is None:
                stepped_ms = now_ms
                worth = int(won * unit_micros_cpm)
                bought = Bought(worth, float(worth), unit_micros_cpm) if worth or not wins else None
                control = step(control, total + spent, wins, today.pace(now_ms), now_ms, law, bought)
            left = budget - spent
            multiplier = _paced(value * unit_micros_cpm, control.multiplier, left, now_ms)
            bid = second_price_bid(value * unit_micros_cpm, multiplier, left)
            if market_price <= bid:
                spent += market_price
                won += value
                wins += 1
        total += spent
        spends.append(spent)
    return won, spends


def _paced(value_micros_cpm: float, multiplier: float, left_micros_cpm: int, now_ms: int) -> float:
    controls = ControlColumns(np.array([multiplier]), np.array([float(left_micros_cpm)]), now_ms)
    values, none = np.array([value_micros_cpm]), _NONE_MICROS_CPM
    return float(pace(values, _ROW, controls, _LINE_ITEM, none, none, 0, now_ms)[0])
