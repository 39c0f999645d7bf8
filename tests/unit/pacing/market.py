"""A simulated market for one budget: traffic, rivals, late billing. The controller meets it as it meets the book."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dsp.pacing.bids import thin
from dsp.pacing.controller import Bought, Control, Law, step
from dsp.pacing.plan import Plan


@dataclass
class Market:
    """Auctions arrive at `rate(now_ms)` a second; the best bid wins and pays itself, or the best rival's.

    Bills arrive late, and none leave while `stuck(now_ms)`.
    """

    rate: Callable[[int], float]
    value_cpm: float = 3.0
    value_spread: float = 0.5
    rival_cpm: float = 2.0
    rival_spread: float = 0.5
    floor_cpm: float = 0.0
    billing_delay_ms: int = 1_500
    seed: int = 7
    first_price: bool = True
    stuck: Callable[[int], bool] = lambda _: False
    #: What is realised of the expected value.
    realised: float = 1.0
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def costs(self, now_ms: int, seconds: float, control: Control) -> np.ndarray:
        """Return what each win of the next `seconds` costs in micros."""
        return self.wins(now_ms, seconds, control)[0]

    def wins(self, now_ms: int, seconds: float, control: Control) -> tuple[np.ndarray, np.ndarray]:
        """Return (cost, value) of each win of the next `seconds` in micros."""
        count = self.generator.poisson(self.rate(now_ms) * seconds)
        values = self.value_cpm * np.exp(self.generator.normal(0, self.value_spread, count))
        rivals = self.rival_cpm * np.exp(self.generator.normal(0, self.rival_spread, count))
        multiplier, floors, none = np.full(count, control.multiplier), np.full(count, self.floor_cpm), np.zeros(count)
        multiplier, rates = thin(values, multiplier, floors, none)
        bids = values * multiplier
        won = (bids > rivals) & (bids >= floors)
        if rates is not None:
            won &= self.generator.random(count) < rates
        rivals = np.maximum(rivals, floors)
        paid = bids if self.first_price else rivals
        return (paid[won] * 1_000).astype(np.int64), (values[won] * 1_000).astype(np.int64)


@dataclass
class Trace:
    """What a run looked like, step by step: micros since the flight began, and the controls."""

    at_ms: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    value: list[int] = field(default_factory=list)  # expected, of what was billed

    def gaps(self, budget: int) -> np.ndarray:
        """Return spend less plan at every step, as a share of the budget."""
        return (np.array(self.spent) - np.array(self.planned)) / budget


def run(
    market: Market,
    plan_at: Callable[[int, int], Plan],
    budget: int,
    start_ms: int,
    end_ms: int,
    step_ms: int = 1_000,
    law: Law | None = None,
    restart: Callable[[int, Control], Control] = lambda now_ms, control: control,
    unit_micros: int | None = None,
) -> Trace:
    """Drive the controller from start to end; `plan_at(now_ms, spent)` gives the plan, the budget is hard.

    With `unit_micros`, what a unit of the goal may cost, the controller learns what was bought as well.
    """
    trace, control = Trace(), None
    spent, value, wins, left = 0, 0, 0, budget
    billed: deque[tuple[int, int, int, int]] = deque()
    for now_ms in range(start_ms, end_ms, step_ms):
        while billed and billed[0][0] <= now_ms and not market.stuck(now_ms):
            _, cost, worth, count = billed.popleft()
            spent, value, wins = spent + cost, value + worth, wins + count
        plan = plan_at(now_ms, spent)
        pace = plan.pace(now_ms)
        bought = Bought(value, value * market.realised, unit_micros) if unit_micros else None
        control = step(control, spent, wins, pace, now_ms, law or Law(), bought)
        control = restart(now_ms, control)
        costs, values = (
            market.wins(now_ms, step_ms / 1_000, control) if pace.rate_micros_second else (np.zeros(0), np.zeros(0))
        )
        paid = np.cumsum(costs) <= left
        won = int(costs[paid].sum())
        left -= won
        billed.append((now_ms + step_ms // 2 + market.billing_delay_ms, won, int(values[paid].sum()), int(paid.sum())))
        trace.at_ms.append(now_ms)
        trace.spent.append(spent)
        trace.planned.append(pace.planned_micros or 0)
        trace.controls.append(control)
        trace.value.append(value)
    return trace
