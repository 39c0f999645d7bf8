"""Many writes of entities of one kind, all of which are made or none."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from dsp.catalog.fields import Rules
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.kernel.errors import ConflictError, Fault, NotFoundError, TransitionError, ValidationError
from dsp.store.catalog import CatalogRepository

OPERATIONS = "operations"
_FIELDS = "fields"


class BatchAction(StrEnum):
    """What is done to one entity."""

    CREATE = "create"
    UPDATE = "update"
    ACTIVATE = "activate"
    PAUSE = "pause"
    ARCHIVE = "archive"


STATUSES = {
    BatchAction.ACTIVATE: Status.ACTIVE,
    BatchAction.PAUSE: Status.PAUSED,
    BatchAction.ARCHIVE: Status.ARCHIVED,
}


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
    for number, (one, fields) in enumerate(wanted):
        at = f"{OPERATIONS}[{number}]"
        try:
            if one.id is None:
                made.append(repository.create(kind, fields))
            elif one.action is BatchAction.UPDATE:
                made.append(repository.update(kind, one.id, fields, one.version))
            else:
                made.append(repository.set_status(kind, one.id, STATUSES[one.action], one.version))
        except ValidationError as refused:
            asked = one.action in _WITH_FIELDS  # else the field is one of the entity's, and not of the body's
            faults += [
                Fault(f"{at}.{_FIELDS}.{each.field}", each.message) if asked else Fault(at, str(each))
                for each in refused.faults
            ]
        except (NotFoundError, ConflictError, TransitionError) as refused:
            faults.append(Fault(at, str(refused)))
    if faults:
        raise ValidationError(faults)
    return made


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
