"""A simulated market for one budget: traffic, rivals, late billing. The controller meets it as it meets the book."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dsp.pacing.controller import Control, Law, step
from dsp.pacing.plan import Plan


@dataclass
class Market:
    """Auctions arrive at `rate(now_ms)` a second; a bid wins if it beats the best rival, and pays itself."""

    rate: Callable[[int], float]
    value_cpm: float = 3.0
    value_spread: float = 0.5
    rival_cpm: float = 2.0
    rival_spread: float = 0.5
    billing_delay_ms: int = 1_500
    seed: int = 7
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def costs(self, now_ms: int, seconds: float, control: Control) -> np.ndarray:
        """Return what each win of the next `seconds` costs in micros."""
        count = self.generator.binomial(self.generator.poisson(self.rate(now_ms) * seconds), control.pass_rate)
        bids = self.value_cpm * np.exp(self.generator.normal(0, self.value_spread, count)) * control.multiplier
        rivals = self.rival_cpm * np.exp(self.generator.normal(0, self.rival_spread, count))
        return (bids[bids > rivals] * 1_000).astype(np.int64)


@dataclass
class Trace:
    """What a run looked like, step by step: micros since the flight began, and the controls."""

    at_ms: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    planned: list[int] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)

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
) -> Trace:
    """Drive the controller from start to end; `plan_at(now_ms, spent)` gives the plan, the budget is hard."""
    trace, control = Trace(), None
    spent, left = 0, budget
    billed: deque[tuple[int, int]] = deque()
    for now_ms in range(start_ms, end_ms, step_ms):
        while billed and billed[0][0] <= now_ms:
            spent += billed.popleft()[1]
        plan = plan_at(now_ms, spent)
        planned = plan.planned_micros(now_ms)
        rate = plan.rate_micros_second(now_ms)
        control = step(control, spent, planned, rate, plan.day_seconds, now_ms, law or Law())
        control = restart(now_ms, control)
        costs = market.costs(now_ms, step_ms / 1_000, control) if rate else np.zeros(0)
        won = int(costs[np.cumsum(costs) <= left].sum())
        left -= won
        billed.append((now_ms + step_ms // 2 + market.billing_delay_ms, won))
        trace.at_ms.append(now_ms)
        trace.spent.append(spent)
        trace.planned.append(planned)
        trace.controls.append(control)
    return trace
