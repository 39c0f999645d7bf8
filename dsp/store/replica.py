"""The catalogue in memory, kept up to date by the log of its writes: reading it all takes seconds where it is large."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dsp.catalog.entities import Catalogue
from dsp.catalog.kinds import Entity, Kind
from dsp.kernel import logging, metrics
from dsp.store.catalog import is_gone, load_entities, revision, rooted
from dsp.store.tables import ChangeRow

#: So many writes at once cost no less than reading the catalogue anew.
_WRITES_MAX = 10_000
_STATUS_KINDS = (Kind.ADVERTISER, Kind.CAMPAIGN, Kind.LINE_ITEM)
#: Fields that bidders do not read in a snapshot.
_BESIDE = frozenset({"status", "budget", "version"})
_TABLE = ChangeRow.__table__.c
_LATEST = select(func.max(_TABLE.id))


class Write(NamedTuple):
    """One write: the entity's fields before, None for a creation, and after."""

    number: int
    kind: Kind
    before: dict[str, Any] | None
    after: dict[str, Any]

    @property
    def keeps_rules(self) -> bool:
        """Whether it touches nothing that is compiled: budgets are the lease store's, statuses go beside."""
        if self.kind not in _STATUS_KINDS or self.before is None:
            return False
        fields = self.before.keys() | self.after.keys()
        return {name for name in fields if self.before.get(name) != self.after.get(name)} <= _BESIDE


class Replica:
    """The catalogue at `revision`, as dsp.store.catalog.load_catalogue reads it; -1 before it is followed."""

    def __init__(self) -> None:
        self.revision = -1
        self._last = 0  # number of the latest write that is in it
        self._entities: dict[Kind, dict[int, Entity]] = {}
        self._unreadable: set[tuple[Kind, int]] = set()

    def follow(self, session: Session) -> Sequence[Write] | None:
        """Catch up; return what was written since, oldest first, or None where the catalogue was read anew.

        Writers take turns, so that the log's numbers are in the order of commits. A log that does not hold one write
        for each revision is another database's, or was cut; one with fields unknown here is a newer version's.
        """
        found = revision(session)
        last = session.execute(_LATEST).scalar_one() or 0
        behind = found - self.revision
        if behind == 0 and last == self._last:  # else a standby took over that lacked some of the latest writes
            return []
        writes = self._since(session) if self.revision >= 0 and 0 < behind <= _WRITES_MAX else []
        if writes and len(writes) == behind and self._enter(writes):
            self._last, self.revision = writes[-1].number, found
            return writes
        self._read(session)
        self._last, self.revision = last, found
        return None

    def _read(self, session: Session) -> None:
        unreadable = set()
        for kind in Kind:
            found, faults = load_entities(session, kind)
            self._entities[kind] = {one.id: one for one in found}
            for number, fault in faults.items():
                unreadable.add((kind, number))
                if (kind, number) not in self._unreadable:
                    logging.get(__name__).error("entity unreadable, left out", kind=kind, id=number, fault=fault)
        self._unreadable = unreadable
        metrics.CATALOGUE_UNREADABLE.set(len(unreadable))

    def catalogue(self, only: Kind | None = None) -> Catalogue:
        """Return what is not gone, nor under an ancestor that is: all kinds, or `only` this one and its ancestors."""
        wanted = Kind if only is None else (only, *only.ancestors)
        return rooted({kind: self._entities[kind].values() if kind in wanted else () for kind in Kind})

    def _since(self, session: Session) -> list[Write]:
        query = (
            select(_TABLE.id, _TABLE.kind, _TABLE.before, _TABLE.after)
            .where(_TABLE.id > self._last)
            .order_by(_TABLE.id)
            .limit(_WRITES_MAX)
        )
        return [Write(number, Kind(kind), before, after) for number, kind, before, after in session.execute(query)]

    def _enter(self, writes: Sequence[Write]) -> bool:
        for write in writes:
            try:
                entity = msgspec.convert(write.after, write.kind.entity)
            except msgspec.ValidationError:
                return False
            if (write.kind, entity.id) in self._unreadable:  # perhaps not any more, and what is under it neither
                return False
            if is_gone(write.kind, entity.status):
                self._entities[write.kind].pop(entity.id, None)
            else:
                self._entities[write.kind][entity.id] = entity
        return True
