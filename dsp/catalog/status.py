"""The life cycle of an entity, and the status it effectively has given its parents."""

from enum import StrEnum

from dsp.kernel.errors import TransitionError


class Status(StrEnum):
    """What a manager set. Entities are archived, never deleted."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


_ALLOWED: dict[Status, frozenset[Status]] = {
    Status.DRAFT: frozenset({Status.ACTIVE, Status.ARCHIVED}),
    Status.ACTIVE: frozenset({Status.PAUSED, Status.ARCHIVED}),
    Status.PAUSED: frozenset({Status.ACTIVE, Status.ARCHIVED}),
    Status.ARCHIVED: frozenset(),
}
#: The parent's or the entity's own status that wins, strongest first.
_PRECEDENCE = (Status.ARCHIVED, Status.DRAFT, Status.PAUSED, Status.ACTIVE)


def transition(current: Status, wanted: Status) -> Status:
    """Return the status after the change; setting the current status again is no change.

    Raises:
        TransitionError: the life cycle has no such step.
    """
    if wanted is not current and wanted not in _ALLOWED[current]:
        raise TransitionError(f"cannot go from {current} to {wanted}")
    return wanted


def effective(*statuses: Status) -> Status:
    """Return the status an entity effectively has: the weakest of its own and its ancestors'."""
    return min(statuses, key=_PRECEDENCE.index)
