"""The catalogue's audit trail as one list: every write of every entity, in the order in which they were committed."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dsp.catalog.kinds import Kind
from dsp.store.catalog import Change
from dsp.store.tables import ChangeRow


class EntityChange(Change, frozen=True, kw_only=True):
    """One write, and of which entity. `number` grows with every write."""

    number: int
    entity_kind: Kind
    entity_id: int


def list_changes(
    session: Session, filters: Mapping[str, Any], since_ms: int, after: int, limit: int
) -> Sequence[EntityChange]:
    """Return the writes after number `after` and not before `since_ms` whose columns equal the filters."""
    query = select(ChangeRow).where(ChangeRow.id > after, ChangeRow.at_ms >= since_ms)
    rows = session.scalars(query.filter_by(**filters).order_by(ChangeRow.id).limit(limit))
    return [
        EntityChange(
            number=row.id,
            entity_kind=Kind(row.kind),
            entity_id=row.entity_id,
            **{name: getattr(row, name) for name in Change.__struct_fields__},
        )
        for row in rows
    ]
