"""Which line items are active, published beside the snapshot, so that a pause needs no snapshot of its own."""

from collections.abc import Iterable

import msgspec
import numpy as np

from dsp.snapshot.build import Snapshot
from dsp.targeting import bitmap

#: The blob under which it is published.
ACTIVE_BLOB = "active"
_ID = np.dtype("<i8")


class Active(msgspec.Struct, frozen=True, kw_only=True, tag="active.1"):
    """Every active line item of the catalogue at a revision, and the snapshot that is of the same but for statuses.

    `line_item_ids` are ascending, 8 bytes each.
    """

    snapshot: str
    revision: int
    at_ms: int
    line_item_ids: bytes

    def older_than(self, other: "Active") -> bool:
        """Return whether this was published before the other, and comes late.

        Only both together say so: a restored database begins at an earlier revision, and a clock may be set back.
        """
        return self.revision < other.revision and self.at_ms < other.at_ms

    def on(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with those of its line items active that are.

        Of another snapshot than its own this takes line items out and lets none in: who has been resumed may have been
        changed before. One that is younger than this knows better by itself.
        """
        own = snapshot.version == self.snapshot
        if not own and self.at_ms < snapshot.built_at_ms:
            return snapshot
        ids, rows = np.frombuffer(self.line_item_ids, _ID), snapshot.line_item_ids
        active = np.zeros(rows.shape[0], dtype=np.bool_)
        if ids.shape[0]:
            active = ids.take(np.searchsorted(ids, rows), mode="clip") == rows
        if not own:
            active &= bitmap.mask(snapshot.index.active)[: rows.shape[0]]
        return snapshot.with_active(active)


def encode(line_item_ids: Iterable[int], snapshot: str, revision: int, at_ms: int) -> bytes:
    """Return the blob (MessagePack)."""
    ids = np.sort(np.fromiter(line_item_ids, dtype=_ID)).tobytes()
    return msgspec.msgpack.encode(Active(snapshot=snapshot, revision=revision, at_ms=at_ms, line_item_ids=ids))


def decode(data: bytes) -> Active:
    """Return what `encode` was given; raises msgspec.DecodeError for bytes that hold none."""
    found = msgspec.msgpack.decode(data, type=Active)
    if len(found.line_item_ids) % _ID.itemsize:
        raise msgspec.DecodeError("ids of line items are cut off")
    return found
