"""How bids are scaled and auctions thinned so that spend follows its plan: the controls bidders read, and their law."""

from collections.abc import Mapping

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
    spend against plan: both are micros since the flight began, and `rate_micros_second` is the smoothed spend rate.
    """

    multiplier: float = 1.0
    pass_rate: float = 1.0
    at_ms: int = 0
    spent_micros: Micros = 0
    planned_micros: Micros = 0
    rate_micros_second: float = 0.0
    cold: bool = False  # spend has not yet come near the plan since the controller began


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
