"""The catalogue's repository: the only code that writes entities. Every write is validated, versioned and audited."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, cast

import msgspec
from sqlalchemy import ColumnElement, Table, Update, bindparam, insert, select, update
from sqlalchemy.orm import Session

from dsp.catalog.entities import Catalogue, Deal
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status, effective, transition
from dsp.catalog.validate import READ_ONLY, parse
from dsp.kernel.errors import ConflictError, NotFoundError, TransitionError, ValidationError
from dsp.store.checks import Checks, Faults
from dsp.store.rows import find, pieces, to_entity, to_values
from dsp.store.tables import TABLES, ChangeRow, RevisionRow

ID_MAX = 2**63 - 1
_REVISION = select(RevisionRow.__table__.c.revision)  # read every second or so by every worker
#: The steps that take a draft to each status.
_STEPS: dict[Status, tuple[Status, ...]] = {
    Status.DRAFT: (),
    Status.ACTIVE: (Status.ACTIVE,),
    Status.PAUSED: (Status.ACTIVE, Status.PAUSED),
    Status.ARCHIVED: (Status.ARCHIVED,),
}
#: What the step to a status is called.
ACTIONS = {Status.ACTIVE: "activate", Status.PAUSED: "pause", Status.ARCHIVED: "archive"}


_Write = tuple[str, Entity | None, Entity]  # what was done, and the entity before and after


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One write: who did what when, and the entity before and after. `before` is None for a creation."""

    version: int
    at_ms: int
    actor: str
    action: str
    before: dict[str, Any] | None
    after: dict[str, Any]


class CatalogReader:
    """Reads entities in one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, kind: Kind, id: int) -> Entity:
        """Return one entity; raises NotFoundError."""
        table = TABLES[kind]
        row = None
        if 0 < id <= ID_MAX:
            row = self._session.execute(select(table).where(table.c.id == id)).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no {kind.words} {id}")
        return to_entity(kind, row)

    def get_all(self, kind: Kind, ids: Collection[int]) -> dict[int, Entity]:
        """Return the entities that have these ids, by them."""
        return find(self._session, kind, "id", [id for id in sorted(ids) if 0 < id <= ID_MAX])

    def find_all(self, kind: Kind, external_ids: Sequence[str]) -> dict[str, Entity]:
        """Return the entities that have these external ids, by them."""
        return find(self._session, kind, "external_id", external_ids)

    def list(
        self,
        kind: Kind,
        filters: Mapping[str, Any] | None = None,
        after: int = 0,
        limit: int = 100,
        name_part: str = "",
    ) -> Sequence[Entity]:
        """Return up to `limit` entities after the id `after`, by id, whose columns or ancestors' ids equal the filters.

        Their names contain `name_part`, whatever the case of the letters A to Z; of others, as the database has it.
        """
        table = TABLES[kind]
        query = select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        if name_part:
            query = query.where(table.c.name.icontains(name_part, autoescape=True))
        for name, value in (filters or {}).items():
            query = query.where(_having(kind, name, value))
        return [to_entity(kind, row) for row in self._session.execute(query).mappings()]

    def versions(self, kind: Kind, id: int, after: int = 0, limit: int = 100) -> Sequence[Change]:
        """Return the entity's writes after version `after`, oldest first; raises NotFoundError."""
        self.get(kind, id)
        query = (
            select(ChangeRow)
            .where(ChangeRow.kind == kind.value, ChangeRow.entity_id == id, ChangeRow.version > after)
            .order_by(ChangeRow.version)
            .limit(limit)
        )
        rows = self._session.scalars(query)
        return [msgspec.convert(row, Change, from_attributes=True) for row in rows]

    def effective_statuses(self, kind: Kind, entities: Sequence[Entity]) -> Sequence[Status]:
        """Return what each entity's status comes to given its ancestors', in the same order."""
        if kind.parent is None:
            return [entity.status for entity in entities]
        owner = attrgetter(kind.parent_field)
        parents = self.get_all(kind.parent, set(map(owner, entities)))
        above = dict(zip(parents, self.effective_statuses(kind.parent, list(parents.values())), strict=True))
        return [effective(entity.status, above[owner(entity)]) for entity in entities]


class CatalogRepository(CatalogReader):
    """Writes entities as well, on behalf of an actor; the caller owns the transaction."""

    def __init__(self, session: Session, actor: str, now_ms: int) -> None:
        super().__init__(session)
        self._checks = Checks(session)
        self._actor = actor
        self._now_ms = now_ms
        self._has_turn = False
        self._held: dict[tuple[Kind, int], Entity] = {}  # see `together`
        self._writes: list[tuple[Kind, _Write]] | None = None

    @contextmanager
    def together(self, kind: Kind, ids: Collection[int]) -> Iterator[None]:
        """Make many writes in fewer statements: others wait for the transaction.

        The entities that have these ids are read at once, and what was done is written down at the end.
        """
        self._take_turn()
        self._held = {(kind, id): entity for id, entity in self.get_all(kind, ids).items()}
        self._writes = []
        yield
        writes, self._writes, self._held = self._writes, None, {}
        self._write_down(writes)

    def create(self, kind: Kind, fields: Mapping[str, Any]) -> Entity:
        """Create a draft.

        Raises:
            ValidationError: with every refused field.
        """
        made, refused = self.create_all(kind, [parse(kind, fields)])
        if refused:
            raise ValidationError(refused[0])
        return made[0]

    def create_all(self, kind: Kind, parsed: Sequence[Entity]) -> tuple[Sequence[Entity], Mapping[int, Faults]]:
        """Create what has been parsed, each taken to its status by the steps of the life cycle, in a few statements.

        Return them; or, where some are refused, none is created: return why which are, by place.
        """
        self._take_turn()
        refused = self._checks.created(kind, parsed)
        if refused or not parsed:
            return [], refused
        final = [msgspec.structs.replace(one, version=1 + len(_STEPS[one.status])) for one in parsed]
        table = TABLES[kind]
        insertion = insert(table).returning(table.c.id, sort_by_parameter_order=True)
        ids = self._session.execute(insertion, [to_values(one) for one in final]).scalars().all()
        made = [msgspec.structs.replace(one, id=id) for one, id in zip(final, ids, strict=True)]
        writes: list[_Write] = []
        for one in made:
            before, after = None, msgspec.structs.replace(one, status=Status.DRAFT, version=1)
            writes.append(("create", before, after))
            for status in _STEPS[one.status]:
                before, after = after, msgspec.structs.replace(after, status=status, version=after.version + 1)
                writes.append((ACTIONS[status], before, after))
        self._record(kind, writes)
        return made, {}

    def update(self, kind: Kind, id: int, fields: Mapping[str, Any], if_version: int | None = None) -> Entity:
        """Merge the fields into an entity (RFC 7396: null removes, objects merge, lists are replaced).

        Raises:
            NotFoundError: no such entity.
            ConflictError: its version is not `if_version`.
            TransitionError: it is archived.
            ValidationError: with every refused field.
        """
        before = self._locked(kind, id, if_version)
        entity = updated(kind, before, fields)
        if faults := self._checks.changed(kind, entity, before):
            raise ValidationError(faults)
        return self._write(kind, "update", before, entity)

    def set_status(self, kind: Kind, id: int, status: Status, if_version: int | None = None) -> Entity:
        """Take an entity to another step of its life cycle; taking it where it is changes nothing.

        Raises:
            NotFoundError, ConflictError: as `update`.
            TransitionError: the life cycle has no such step.
            ValidationError: nothing would bound what it spends, or be worth it.
        """
        before = self._locked(kind, id, if_version)
        entity = msgspec.structs.replace(before, status=transition(before.status, status))
        if status is Status.ACTIVE and (faults := self._checks.activated(entity, before)):
            raise ValidationError(faults)
        return self._write(kind, ACTIONS.get(status, "draft"), before, entity)

    def _take_turn(self) -> None:
        """Wait for the other writers of the catalogue: what a check has found, none of them changes before the commit.

        It also keeps two of them from waiting for each other, and the revision in the order of commits.
        """
        if not self._has_turn:
            self._session.execute(_REVISION.with_for_update())
            self._has_turn = True

    def _locked(self, kind: Kind, id: int, if_version: int | None) -> Entity:
        self._take_turn()
        entity = self._held.get((kind, id)) or self.get(kind, id)
        if if_version is not None and entity.version != if_version:
            raise ConflictError(f"the {kind.words} is at version {entity.version}, not {if_version}")
        return entity

    def _write(self, kind: Kind, action: str, before: Entity, after: Entity) -> Entity:
        if after == before:
            return before
        entity = msgspec.structs.replace(after, version=before.version + 1)
        self._session.execute(_UPDATES[kind], {**to_values(entity), "id_": entity.id, "version_": before.version})
        self._record(kind, [(action, before, entity)])
        return entity

    def _record(self, kind: Kind, writes: Sequence[_Write]) -> None:
        for _, _, after in writes:
            self._checks.forget(kind, after.id)
            if (kind, after.id) in self._held:
                self._held[kind, after.id] = after
        found = [(kind, write) for write in writes]
        if self._writes is None:
            self._write_down(found)
        else:
            self._writes += found

    def _write_down(self, writes: Sequence[tuple[Kind, _Write]]) -> None:
        if not writes:
            return
        rows = [
            {
                "kind": kind.value,
                "at_ms": self._now_ms,
                "actor": self._actor,
                "entity_id": after.id,
                "version": after.version,
                "action": action,
                "before": None if before is None else msgspec.to_builtins(before),
                "after": msgspec.to_builtins(after),
            }
            for kind, (action, before, after) in writes
        ]
        self._session.execute(insert(cast(Table, ChangeRow.__table__)), rows)
        self._session.execute(_REVISE, {"writes": len(rows)})


def _update(table: Table) -> Update:
    return update(table).where(table.c.id == bindparam("id_"), table.c.version == bindparam("version_"))


#: Made once: to make one costs more than to execute it.
_UPDATES = {kind: _update(table) for kind, table in TABLES.items()}
_REVISE = update(cast(Table, RevisionRow.__table__)).values(revision=RevisionRow.revision + bindparam("writes"))


def _having(kind: Kind, name: str, value: Any) -> ColumnElement[bool]:
    """Return the condition that a column, or the id of an ancestor further up, is the value."""
    table = TABLES[kind]
    if name in table.c or kind.parent is None:
        equal: ColumnElement[bool] = table.c[name] == value
        return equal
    parents = TABLES[kind.parent]
    return table.c[kind.parent_field].in_(select(parents.c.id).where(_having(kind.parent, name, value)))


def updated(kind: Kind, before: Entity, fields: Mapping[str, Any]) -> Entity:
    """Return what an entity becomes by an update (see CatalogRepository.update), of the same version.

    Raises:
        TransitionError: it is archived.
        ValidationError: with every field that is refused by itself.
    """
    if before.status is Status.ARCHIVED:
        raise TransitionError("an archived entity cannot be changed")
    base = {name: value for name, value in msgspec.to_builtins(before).items() if name not in READ_ONLY}
    entity = parse(kind, merge(base, fields), before)
    return msgspec.structs.replace(entity, id=before.id, status=before.status, version=before.version)


def merge(base: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(base) if isinstance(base, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def names(session: Session, kind: Kind, ids: Collection[int]) -> dict[int, str]:
    """Return the names of the entities of a kind that have these ids."""
    table, wanted = TABLES[kind], sorted(ids)
    found: dict[int, str] = {}
    for some in pieces(wanted):
        query = select(table.c.id, table.c.name).where(table.c.id.in_(some))
        found |= {row.id: row.name for row in session.execute(query)}
    return found


def load_catalogue(session: Session) -> tuple[int, Catalogue]:
    """Return the catalogue's revision and every entity that is not gone, nor under an ancestor that is."""
    return revision(session), rooted({kind: load_entities(session, kind)[0] for kind in Kind})


def load_entities(session: Session, kind: Kind) -> tuple[list[Entity], dict[int, str]]:
    """Return the entities of a kind that are not gone, by id; and why which of them cannot be read, by id.

    What cannot be read (a newer version may have written it) must not stop the rest. A deal that cannot is archived:
    it still bars its line items.
    """
    table = TABLES[kind]
    query = select(table).order_by(table.c.id)
    if is_gone(kind, Status.ARCHIVED):
        query = query.where(table.c.status != Status.ARCHIVED.value)
    found: list[Entity] = []
    unreadable: dict[int, str] = {}
    for row in session.execute(query).mappings():
        try:
            found.append(to_entity(kind, row))
        except msgspec.ValidationError as fault:
            unreadable[row["id"]] = str(fault)
            if kind is Kind.DEAL:
                known = {name: row[name] for name in ("id", "name", "exchange", "deal_id")}
                found.append(Deal(**known, status=Status.ARCHIVED))
    return found, unreadable


def is_gone(kind: Kind, status: Status) -> bool:
    """Return whether decisions do without an entity: when it is archived, unless it is a deal.

    Line items bid through an id that no deal of the catalogue has, on any terms: archived, a deal must still bar its.
    """
    return status is Status.ARCHIVED and kind is not Kind.DEAL


def rooted(entities: Mapping[Kind, Collection[Entity]]) -> Catalogue:
    """Return the catalogue of those that have all their ancestors among the given, in the order given.

    Of conversion rules it has the active alone: under another no conversion counts, and none is worth bidding for.
    """
    kept: dict[Kind, Collection[Entity]] = {}
    for kind in Kind:
        kept[kind] = entities[kind]
        if kind is Kind.CONVERSION_RULE:
            kept[kind] = [rule for rule in kept[kind] if rule.status is Status.ACTIVE]
        if kind.parent is not None:
            parents, owner = {parent.id for parent in kept[kind.parent]}, attrgetter(kind.parent_field)
            kept[kind] = [entity for entity in kept[kind] if owner(entity) in parents]
    return Catalogue(**{kind.plural: tuple(kept[kind]) for kind in Kind})  # type: ignore[arg-type]


def revision(session: Session) -> int:
    """Return the count of writes the catalogue has seen: equal revisions mean equal catalogues."""
    number: int = session.execute(_REVISION).scalar_one()
    return number
