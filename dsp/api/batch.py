"""Many writes of entities of one kind, all of which are made or none."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any, cast

import msgspec

from dsp.catalog.fields import Rules
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.validate import parse
from dsp.kernel.errors import ConflictError, Fault, NotFoundError, TransitionError, ValidationError
from dsp.store.catalog import ACTIONS, CatalogRepository

OPERATIONS = "operations"
_FIELDS = "fields"


class BatchAction(StrEnum):
    """What is done to one entity."""

    CREATE = "create"
    UPDATE = "update"
    ACTIVATE = "activate"
    PAUSE = "pause"
    ARCHIVE = "archive"


STATUSES = {BatchAction(action): status for status, action in ACTIONS.items()}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One write. Beside these it has `fields` where it is a creation, or an update: then a merge patch."""

    action: BatchAction
    id: int | None = None  # of all but a creation
    version: int | None = None


#: What is done with fields.
_WITH_FIELDS = (BatchAction.CREATE, BatchAction.UPDATE)
_RULES = Rules(fields={})


def operations(body: Mapping[str, Any], bound: int) -> list[tuple[Operation, Mapping[str, Any]]]:
    """Return the operations that a body asks for, each with its fields.

    Raises:
        ValidationError: with every fault of their form; there are none, or more than `bound`.
    """
    faults = [Fault(name[:64], "unknown field") for name in body if name != OPERATIONS]
    given = body.get(OPERATIONS)
    if not isinstance(given, list) or not 1 <= len(given) <= bound:
        raise ValidationError([*faults, Fault(OPERATIONS, f"must be a list of 1 to {bound} operations")])
    found = [_operation(one, f"{OPERATIONS}[{number}]", faults) for number, one in enumerate(given)]
    if faults:
        raise ValidationError(faults)
    return found


def apply(
    repository: CatalogRepository, kind: Kind, wanted: Sequence[tuple[Operation, Mapping[str, Any]]]
) -> list[Entity]:
    """Make the writes in their order, and return the entities after them.

    Raises:
        ValidationError: with every fault of every operation; the caller commits nothing then.
    """
    faults: list[Fault] = []
    made: list[Entity] = []
    with repository.together(kind, [one.id for one, _ in wanted if one.id is not None]):
        for creating, some in groupby(enumerate(wanted), lambda numbered: numbered[1][0].action is BatchAction.CREATE):
            if creating:
                made += _create(repository, kind, {number: fields for number, (_, fields) in some}, faults)
                continue
            for number, (one, fields) in some:
                try:
                    made.append(_change(repository, kind, one, fields))
                except ValidationError as refused:
                    faults += _faults(number, refused.faults, one.action is BatchAction.UPDATE)
                except (NotFoundError, ConflictError, TransitionError) as refused:
                    faults.append(Fault(f"{OPERATIONS}[{number}]", str(refused)))
        if faults:
            raise ValidationError(faults)
    return made


def _create(
    repository: CatalogRepository, kind: Kind, wanted: Mapping[int, Mapping[str, Any]], faults: list[Fault]
) -> Sequence[Entity]:
    parsed: dict[int, Entity] = {}
    refused: dict[int, Sequence[Fault]] = {}
    for number, fields in wanted.items():
        try:
            parsed[number] = parse(kind, fields)
        except ValidationError as fault:
            refused[number] = fault.faults
    made, others = repository.create_all(kind, list(parsed.values()))
    numbers = list(parsed)
    refused |= {numbers[place]: found for place, found in others.items()}
    for number in sorted(refused):
        faults += _faults(number, refused[number], True)
    return made


def _change(repository: CatalogRepository, kind: Kind, one: Operation, fields: Mapping[str, Any]) -> Entity:
    id = cast(int, one.id)
    if one.action is BatchAction.UPDATE:
        return repository.update(kind, id, fields, one.version)
    return repository.set_status(kind, id, STATUSES[one.action], one.version)


def _faults(number: int, refused: Sequence[Fault], in_fields: bool) -> list[Fault]:
    """Return the faults of one operation. Where it has no fields, a fault's field is the entity's, not the body's."""
    at = f"{OPERATIONS}[{number}]"
    return [Fault(f"{at}.{_FIELDS}.{one.field}", one.message) if in_fields else Fault(at, str(one)) for one in refused]


def _operation(given: Any, path: str, faults: list[Fault]) -> tuple[Operation, Mapping[str, Any]]:
    fields: Any = {}
    if isinstance(given, Mapping):
        given, fields = {name: value for name, value in given.items() if name != _FIELDS}, given.get(_FIELDS)
        action = given.get("action")
        if (action in _WITH_FIELDS) is not isinstance(fields, Mapping):
            message = "is required, as an object, to create or to update, and for nothing else"
            faults.append(Fault(f"{path}.{_FIELDS}", message))
        if action != BatchAction.CREATE and given.get("id") is None:
            faults.append(Fault(f"{path}.id", "is required"))
        if action == BatchAction.CREATE:
            set_here = [name for name in ("id", "version") if given.get(name) is not None]
            faults += [Fault(f"{path}.{name}", "is set by the platform") for name in set_here]
    return _RULES.build(Operation, given, path, faults), fields or {}
