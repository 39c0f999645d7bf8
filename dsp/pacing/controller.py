"""How bids are scaled and auctions thinned so that spend follows its plan: the controls bidders read, and their law."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.money import Micros

#: The blob under which the pacing worker publishes `Controls` and the bidders follow it.
CONTROLS_BLOB = "controls"


class Control(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How one line item or campaign is held to its plan.

    `multiplier` in (0, 1] scales the value that is bid; `pass_rate` in (0, 1] is the share of auctions taken part in,
    below 1 only where the multiplier is at its lower bound. The rest lets a restarted controller go on, and people see
    spend against plan: both are micros since the flight began.
    """

    multiplier: float = 1.0
    pass_rate: float = 1.0
    level: float = 0.0  # log of multiplier times pass rate, before a tighter campaign is taken into account
    cold: bool = False  # spend has not yet come near the plan
    rate_micros_second: float = 0.0  # of spend, smoothed
    at_ms: int = 0
    spent_micros: Micros = 0
    planned_micros: Micros | None = None  # None: no budget, no plan


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """The controls of all line items at one instant. Those of campaigns are folded into their line items' already."""

    at_ms: int
    line_items: dict[int, Control] = {}
    campaigns: dict[int, Control] = {}


class ControlColumns(msgspec.Struct, frozen=True):
    """Controls as float64 columns of shape (N,), row for row beside a snapshot's line items."""

    multiplier: NDArray[np.float64]
    pass_rate: NDArray[np.float64]


def encode(controls: Controls) -> bytes:
    """Return the blob's bytes (MessagePack)."""
    return msgspec.msgpack.encode(controls)


def decode(data: bytes) -> Controls:
    """Return the controls; raises msgspec.DecodeError for bytes that are none."""
    return msgspec.msgpack.decode(data, type=Controls)


def align(controls: Controls | None, line_item_ids: NDArray[np.int64]) -> ControlColumns:
    """Return the controls in the order of `line_item_ids` (N,).

    A line item without a control is not held back: its hard budget is guarded by leases, not by pacing.
    """
    known: Mapping[int, Control] = controls.line_items if controls is not None else {}
    open_throttle = Control()
    rows = [known.get(line_item_id, open_throttle) for line_item_id in line_item_ids.tolist()]
    return ControlColumns(
        multiplier=np.array([row.multiplier for row in rows], dtype=np.float64),
        pass_rate=np.array([row.pass_rate for row in rows], dtype=np.float64),
    )


@dataclass(frozen=True, slots=True)
class Law:
    """How briskly a controller acts; times in seconds, logs natural."""

    multiplier_min: float = 0.2
    pass_rate_min: float = 0.001
    #: A controller begins so far open that traffic `start_supply` times as rich as needed could not spend more than
    #: `start_share` of the day before the book shows it. A day begins wide open, two minutes nearly shut.
    start_supply: float = 20.0
    start_share: float = 0.05
    start_delay_seconds: float = 3.0
    #: One time constant is this share of today's part of the flight, at most so many seconds ...
    time_share: float = 1 / 12
    time_seconds_max: float = 600.0
    #: ... and at least so many control steps: spend shows in the book late, and a loop faster than that would swing.
    time_steps_min: float = 6.0
    #: Over how many time constants a gap between spend and plan is to be closed.
    catch_up: float = 4.0
    #: The most that the plan's rate may be exceeded to catch up, as a multiple of it.
    rate_ratio_max: float = 2.0
    fall_max: float = 0.5  # the most that the level falls in one step
    cold_gain: float = 2.0  # how much faster a cold controller opens


def step(
    before: Control | None,
    spent_micros: Micros,
    planned_micros: Micros,
    rate_micros_second: float,
    day_seconds: float,
    now_ms: int,
    law: Law,
) -> Control:
    """Return the next control: mirror descent in log space on the gap between the money wanted and the money spent.

    The gradient is (spent - wanted) / planned over the step, where wanted is the plan's own rate and what it takes to
    close the gap to the plan. It is summed unsmoothed, so that lumpy spend averages out without a lag.

    Args:
        before: the control so far; None begins cold.
        spent_micros: since the flight began, as the book has it.
        planned_micros: the same, as the plan has it for now.
        rate_micros_second: of the plan, now; 0 outside dayparts, infinite where all may be spent at once.
        day_seconds: length of today's part of the flight.
    """
    if before is None:
        before = Control(level=_level_start(day_seconds, law), cold=True, at_ms=now_ms, spent_micros=spent_micros)
    seconds = max(now_ms - before.at_ms, 0) / 1_000
    level, cold, rate = before.level, before.cold, before.rate_micros_second
    if rate_micros_second == inf:
        level, cold = 0.0, False
    elif rate_micros_second > 0.0 and seconds > 0.0:
        time = max(min(law.time_share * day_seconds, law.time_seconds_max), law.time_steps_min * seconds)
        spent = max(spent_micros - before.spent_micros, 0)
        catch_up = (planned_micros - spent_micros) / (law.catch_up * time * rate_micros_second)
        gap = min(max(1.0 + catch_up, 0.0), law.rate_ratio_max) - spent / (rate_micros_second * seconds)
        rate += (spent / seconds - rate) * seconds / time
        cold = cold and rate < 0.5 * rate_micros_second
        gain = seconds / time * (law.cold_gain if cold and gap > 0.0 else 1.0)
        level += max(gain * gap, -law.fall_max)
    level = min(max(level, log(law.multiplier_min * law.pass_rate_min)), 0.0)
    after = Control(
        level=level,
        cold=cold,
        rate_micros_second=rate,
        at_ms=now_ms,
        spent_micros=spent_micros,
        planned_micros=planned_micros,
    )
    return hold(after, 0.0, law)


def _level_start(day_seconds: float, law: Law) -> float:
    share = law.start_share * day_seconds / (law.start_supply * law.start_delay_seconds)
    return log(min(max(share, law.multiplier_min * law.pass_rate_min), 1.0))


def hold(control: Control, campaign_level: float, law: Law) -> Control:
    """Return the control as bidders are to obey it: at its own level or its campaign's, whichever is lower.

    The multiplier takes all of it down to its lower bound, where bids would lose everything at once; the pass rate
    takes the rest.
    """
    level, floor = min(control.level, campaign_level), log(law.multiplier_min)
    multiplier, pass_rate = exp(max(level, floor)), exp(min(level - floor, 0.0))
    return msgspec.structs.replace(control, multiplier=multiplier, pass_rate=pass_rate)
