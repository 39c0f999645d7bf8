"""Entities to rows and back. A column is a field; a struct made of scalars is spread over prefixed columns."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping, select
from sqlalchemy.orm import Session

from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.terms import Budget, Flight, Goal
from dsp.store.tables import TABLES

_AT_ONCE = 500  # databases bound the parameters of a statement
T = TypeVar("T")
#: Fields of these types are spread; every other field that is not a scalar is one JSON column.
_SPREAD: dict[str, type[msgspec.Struct]] = {"budget": Budget, "flight": Flight, "goal": Goal}
_PARTS = {name: [field.name for field in msgspec.structs.fields(struct)] for name, struct in _SPREAD.items()}


def to_values(entity: Entity) -> dict[str, Any]:
    """Return the columns of an entity's row, without its id."""
    fields: dict[str, Any] = msgspec.to_builtins(entity)
    del fields["id"]
    for name in _SPREAD.keys() & fields.keys():
        nested = fields.pop(name)
        fields.update({f"{name}_{part}": nested[part] for part in _PARTS[name]})
    return fields


def find(session: Session, kind: Kind, column: str, values: Sequence[Any]) -> dict[Any, Entity]:
    """Return the entities of which a column has one of the values, by it."""
    table = TABLES[kind]
    found: dict[Any, Entity] = {}
    for some in pieces(values):
        rows = session.execute(select(table).where(table.c[column].in_(some))).mappings()
        found |= {row[column]: to_entity(kind, row) for row in rows}
    return found


def pieces(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items, as many at a time as may be named in one statement."""
    for begin in range(0, len(items), _AT_ONCE):
        yield items[begin : begin + _AT_ONCE]


def to_entity(kind: Kind, values: RowMapping) -> Entity:
    """Return the entity a row holds."""
    fields: dict[str, Any] = {str(name): value for name, value in values.items()}
    for name, parts in _PARTS.items():
        if f"{name}_{parts[0]}" in fields:
            fields[name] = {part: fields.pop(f"{name}_{part}") for part in parts}
    return msgspec.convert(fields, kind.entity)
