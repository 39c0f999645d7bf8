"""What bidders obey of the controls, as columns: published beside the controls at every step, and read with each.

The controls themselves hold fifteen things more of every line item. To read them takes a microsecond each, in one call
that lets no auction run meanwhile; the columns are read as they lie.
"""

from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.money import IMPRESSIONS_PER_MILLE
from dsp.pacing.controller import Controls

#: The blob under which the pacing worker publishes `Paced` and the bidders follow it.
PACED_BLOB = "paced"
_ID, _NUMBER = np.dtype("<i8"), np.dtype("<f8")


class Paced(msgspec.Struct, frozen=True, kw_only=True, tag="paced.1"):
    """Columns over the line items that have controls, 8 bytes a value, ascending by id."""

    at_ms: int
    line_item_ids: bytes
    multiplier: bytes
    left_micros: bytes  # of today's budgets, by the book; infinite without any
    predicted_by: str = ""  # the predictor for whose values the multipliers are; empty where nobody has told of another


class ControlColumns(msgspec.Struct, frozen=True):
    """Controls as float64 columns of shape (N,), row for row beside a snapshot's line items."""

    multiplier: NDArray[np.float64]
    left_micros_cpm: NDArray[np.float64]  # the price per thousand at which one impression takes it all; or infinite
    at_ms: int  # when all this was so


def paced(controls: Controls) -> Paced:
    """Return what bidders obey of the controls."""
    held = sorted(controls.line_items.items())
    left = [inf if control.left_micros is None else control.left_micros for _, control in held]
    return Paced(
        at_ms=controls.at_ms,
        line_item_ids=np.array([number for number, _ in held], dtype=_ID).tobytes(),
        multiplier=np.array([control.multiplier for _, control in held], dtype=_NUMBER).tobytes(),
        left_micros=np.array(left, dtype=_NUMBER).tobytes(),
        predicted_by=next(reversed(controls.predicted_by), ""),
    )


def encode(columns: Paced) -> bytes:
    """Return the blob's bytes (MessagePack)."""
    return msgspec.msgpack.encode(columns)


def decode(data: bytes) -> Paced:
    """Return the columns; raises msgspec.DecodeError for bytes that hold none."""
    found = msgspec.msgpack.decode(data, type=Paced)
    size = len(found.line_item_ids)
    if size % _ID.itemsize or len(found.multiplier) != size or len(found.left_micros) != size:
        raise msgspec.DecodeError("columns of controls are cut off")
    return found


def align(columns: Paced | None, line_item_ids: NDArray[np.int64]) -> ControlColumns:
    """Return the controls in the order of `line_item_ids` (N,).

    A line item without a control is not held back: its hard budget is guarded by leases, not by pacing.
    """
    multiplier, left = np.ones(line_item_ids.shape[0]), np.full(line_item_ids.shape[0], inf)
    if columns is not None and columns.line_item_ids:
        ids = np.frombuffer(columns.line_item_ids, _ID)
        places = np.minimum(np.searchsorted(ids, line_item_ids), ids.shape[0] - 1)
        known = ids.take(places) == line_item_ids
        np.copyto(multiplier, np.frombuffer(columns.multiplier, _NUMBER).take(places), where=known)
        np.copyto(left, np.frombuffer(columns.left_micros, _NUMBER).take(places), where=known)
    left *= IMPRESSIONS_PER_MILLE
    return ControlColumns(multiplier, left, columns.at_ms if columns is not None else 0)
