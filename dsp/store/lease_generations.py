"""Which generation of each shard of the lease store may grant, and the latest instant its holders may promise."""

from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from dsp.store.book_tables import LeaseGenerationRow

#: Two keepers may be the first at once, and until there is a row neither can lock it.
_WRITE = text(
    "INSERT INTO lease_generation (shard, generation, ceiling_ms) VALUES (:shard, :generation, :ceiling_ms)"
    " ON CONFLICT (shard) DO UPDATE SET generation = excluded.generation, ceiling_ms ="
    " CASE WHEN excluded.ceiling_ms > lease_generation.ceiling_ms"
    " THEN excluded.ceiling_ms ELSE lease_generation.ceiling_ms END"
)


class Known(NamedTuple):
    """What was written down of a shard."""

    generation: str
    ceiling_ms: int


class LeaseGenerations:
    """Reads and writes within the caller's session; the caller commits."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> dict[int, Known]:
        """Return what is known of each shard, none of which others change until the transaction ends."""
        rows = self._session.scalars(select(LeaseGenerationRow).order_by(LeaseGenerationRow.shard).with_for_update())
        return {row.shard: Known(row.generation, row.ceiling_ms) for row in rows}

    def write(self, shard: int, generation: str, ceiling_ms: int) -> None:
        """Write down a shard's generation; its ceiling never falls."""
        self._session.execute(_WRITE, {"shard": shard, "generation": generation, "ceiling_ms": ceiling_ms})
