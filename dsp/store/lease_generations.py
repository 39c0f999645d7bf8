"""Which generation of each shard of the lease store may grant, and the latest instant its holders may promise."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from dsp.store.book_tables import LeaseGenerationRow


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
        row = self._session.get(LeaseGenerationRow, shard)
        if row is None:
            self._session.add(LeaseGenerationRow(shard=shard, generation=generation, ceiling_ms=ceiling_ms))
        else:
            row.generation, row.ceiling_ms = generation, max(row.ceiling_ms, ceiling_ms)
