"""The catalogue's repository: the only code that writes entities. Every write is validated, versioned and audited."""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

import msgspec
from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.orm import Session

from dsp.catalog.entities import Campaign, Catalogue, Deal, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status, effective, transition
from dsp.catalog.terms import Budget, GoalKind
from dsp.catalog.validate import READ_ONLY, parse
from dsp.kernel.errors import ConflictError, Fault, NotFoundError, TransitionError, ValidationError
from dsp.store.rows import to_entity, to_values
from dsp.store.tables import ROWS, CampaignRow, ChangeRow, ConversionRuleRow, LineItemRow, RevisionRow

#: Fields that must be unique within a kind, each with the field that narrows it.
_UNIQUE: dict[Kind, tuple[str, str]] = {
    Kind.DEAL: ("deal_id", "exchange"),
    Kind.AUDIENCE: ("segment_id", "advertiser_id"),
}
ID_MAX = 2**63 - 1
_NAMES_AT_ONCE = 500  # databases bound the parameters of a statement
_REVISION = select(RevisionRow.__table__.c.revision)  # read every second or so by every worker
Faults = list[Fault]


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
        table = ROWS[kind].__table__
        row = None
        if 0 < id <= ID_MAX:
            row = self._session.execute(select(table).where(table.c.id == id)).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no {kind.words} {id}")
        return to_entity(kind, row)

    def find(self, kind: Kind, external_id: str) -> Entity | None:
        """Return the entity with this external id."""
        found = self.list(kind, {"external_id": external_id})
        return found[0] if found else None

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
        table = ROWS[kind].__table__
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
        parent, field = kind.parent, kind.parent_field
        if parent is None or field is None:
            return [entity.status for entity in entities]
        table = ROWS[parent].__table__
        wanted = {getattr(entity, field) for entity in entities}
        rows = self._session.execute(select(table).where(table.c.id.in_(wanted))).mappings()
        parents = [to_entity(parent, row) for row in rows]
        above = dict(zip([each.id for each in parents], self.effective_statuses(parent, parents), strict=True))
        return [effective(entity.status, above[getattr(entity, field)]) for entity in entities]


class CatalogRepository(CatalogReader):
    """Writes entities as well, on behalf of an actor; the caller owns the transaction."""

    def __init__(self, session: Session, actor: str, now_ms: int) -> None:
        super().__init__(session)
        self._actor = actor
        self._now_ms = now_ms

    def create(self, kind: Kind, fields: Mapping[str, Any]) -> Entity:
        """Create a draft.

        Raises:
            ValidationError: with every refused field.
        """
        entity = parse(kind, fields)
        self._take_turn()
        self._check(kind, entity, None)
        table = ROWS[kind].__table__
        made = self._session.execute(insert(ROWS[kind]).values(to_values(entity)).returning(table.c.id))
        entity = msgspec.structs.replace(entity, id=made.scalar_one())
        self._record(kind, "create", None, entity)
        return entity

    def update(self, kind: Kind, id: int, fields: Mapping[str, Any], if_version: int | None = None) -> Entity:
        """Merge the fields into an entity (RFC 7396: null removes, objects merge, lists are replaced).

        Raises:
            NotFoundError: no such entity.
            ConflictError: its version is not `if_version`.
            TransitionError: it is archived.
            ValidationError: with every refused field.
        """
        before = self._locked(kind, id, if_version)
        if before.status is Status.ARCHIVED:
            raise TransitionError("an archived entity cannot be changed")
        base = {name: value for name, value in msgspec.to_builtins(before).items() if name not in READ_ONLY}
        entity = parse(kind, merge(base, fields), before)
        entity = msgspec.structs.replace(entity, id=id, status=before.status, version=before.version)
        self._check(kind, entity, before)
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
        if status is Status.ACTIVE:
            faults = self._budget_faults(entity, before)
            if isinstance(entity, LineItem):
                faults += self._goal_faults(entity, before)
            if faults:
                raise ValidationError(faults)
        action = {Status.ACTIVE: "activate", Status.PAUSED: "pause", Status.ARCHIVED: "archive"}.get(status, "draft")
        return self._write(kind, action, before, entity)

    def _take_turn(self) -> None:
        """Wait for the other writers of the catalogue: what a check has found, none of them changes before the commit.

        It also keeps two of them from waiting for each other, and the revision in the order of commits.
        """
        self._session.execute(_REVISION.with_for_update())

    def _locked(self, kind: Kind, id: int, if_version: int | None) -> Entity:
        self._take_turn()
        entity = self.get(kind, id)
        if if_version is not None and entity.version != if_version:
            raise ConflictError(f"the {kind.words} is at version {entity.version}, not {if_version}")
        return entity

    def _write(self, kind: Kind, action: str, before: Entity, after: Entity) -> Entity:
        if after == before:
            return before
        entity = msgspec.structs.replace(after, version=before.version + 1)
        table = ROWS[kind].__table__
        self._session.execute(
            update(ROWS[kind])
            .where(table.c.id == entity.id, table.c.version == before.version)
            .values(to_values(entity))
        )
        self._record(kind, action, before, entity)
        return entity

    def _record(self, kind: Kind, action: str, before: Entity | None, after: Entity) -> None:
        values = {
            "kind": kind.value,
            "entity_id": after.id,
            "version": after.version,
            "at_ms": self._now_ms,
            "actor": self._actor,
            "action": action,
            "before": None if before is None else msgspec.to_builtins(before),
            "after": msgspec.to_builtins(after),
        }
        self._session.execute(insert(ChangeRow).values(values))
        self._session.execute(update(RevisionRow).values(revision=RevisionRow.revision + 1))

    def _check(self, kind: Kind, entity: Entity, before: Entity | None) -> None:
        """Refuse what only the other entities can tell: a wrong parent, a goal without meaning, an identity taken."""
        faults = self._parent_faults(kind, entity, before) + self._budget_faults(entity, before)
        if isinstance(entity, LineItem) and not faults:
            faults += self._goal_faults(entity, before) + self._flight_faults(entity, before)
        if entity.external_id is not None:
            faults += self._taken(kind, entity, ("external_id",))
        if kind in _UNIQUE:
            faults += self._taken(kind, entity, _UNIQUE[kind])
        if faults:
            raise ValidationError(faults)

    def _parent_faults(self, kind: Kind, entity: Entity, before: Entity | None) -> Faults:
        if kind.parent is None or kind.parent_field is None:
            return []
        parent_id = getattr(entity, kind.parent_field)
        if before is not None:
            # Money is booked under the ancestors an entity had, so it cannot move.
            moved = parent_id != getattr(before, kind.parent_field)
            return [Fault(kind.parent_field, "cannot be changed")] if moved else []
        try:
            parent = self.get(kind.parent, parent_id)
        except NotFoundError as fault:
            return [Fault(kind.parent_field, str(fault))]
        of = ""
        for above in kind.ancestors:  # below one that is archived nothing bids again
            if parent.status is Status.ARCHIVED:
                return [Fault(kind.parent_field, f"the {above.words}{of} is archived")]
            if above.parent is not None and above.parent_field is not None:
                of = f" of the {above.words}{of}"
                parent = self.get(above.parent, getattr(parent, above.parent_field))
        return []

    def _goal_faults(self, line_item: LineItem, before: Entity | None) -> Faults:
        """Refuse a return on conversions that are worth nothing: such a line item would never bid.

        One that is active needs a rule that is; before, a rule may be a draft as well.
        """
        same = isinstance(before, LineItem) and (before.goal, before.status) == (line_item.goal, line_item.status)
        if line_item.goal.kind is not GoalKind.ROAS or same:
            return []
        rule, active = ConversionRuleRow, line_item.status is Status.ACTIVE
        query = (
            select(rule.id)
            .join(CampaignRow, CampaignRow.advertiser_id == rule.advertiser_id)
            .where(CampaignRow.id == line_item.campaign_id, rule.value_micros.is_not(None))
            .where(rule.status == Status.ACTIVE.value if active else rule.status != Status.ARCHIVED.value)
        )
        if self._session.scalar(query.limit(1)) is not None:
            return []
        return [
            Fault("goal.kind", f"needs {'an active' if active else 'a'} conversion rule of the advertiser with a value")
        ]

    def _budget_faults(self, entity: Entity, before: Entity | None) -> Faults:
        """Refuse a change after which a line item is active that no budget bounds, its own or its campaign's."""
        if not isinstance(entity, Campaign | LineItem) or not isinstance(before, Campaign | LineItem):
            return []
        same = (entity.budget, entity.status) == (before.budget, before.status)
        if same or entity.budget != Budget():
            return []
        if isinstance(entity, LineItem):
            campaign = cast(Campaign, self.get(Kind.CAMPAIGN, entity.campaign_id))
            bounded = entity.status is not Status.ACTIVE or campaign.budget != Budget()
            return [] if bounded else [Fault("budget", "is needed, here or on the campaign: spend would have no bound")]
        row = LineItemRow
        unbounded = select(row.id).where(
            row.campaign_id == entity.id,
            row.status == Status.ACTIVE.value,
            row.budget_daily_micros.is_(None),
            row.budget_total_micros.is_(None),
        )
        found = self._session.scalar(unbounded.limit(1))
        return [] if found is None else [Fault("budget", f"is needed: line item {found} is active and has none")]

    def _flight_faults(self, line_item: LineItem, before: Entity | None) -> Faults:
        """Refuse a flight that shares no instant with the campaign's: such a line item would never bid."""
        if isinstance(before, LineItem) and before.flight == line_item.flight:
            return []
        own, whole = line_item.flight, cast(Campaign, self.get(Kind.CAMPAIGN, line_item.campaign_id)).flight
        ends = [flight.end_ms for flight in (own, whole) if flight.end_ms is not None]
        if not ends or max(own.start_ms, whole.start_ms) < min(ends):
            return []
        to = "open" if whole.end_ms is None else whole.end_ms
        return [Fault("flight", f"lies outside the campaign's, which is from {whole.start_ms} to {to}")]

    def _taken(self, kind: Kind, entity: Entity, fields: tuple[str, ...]) -> Faults:
        table = ROWS[kind].__table__
        query = select(table.c.id).where(table.c.id != entity.id)
        for name in fields:
            query = query.where(table.c[name] == getattr(entity, name))
        other = self._session.scalar(query)
        return [] if other is None else [Fault(fields[0], f"is taken by {kind.words} {other}")]


def _having(kind: Kind, name: str, value: Any) -> ColumnElement[bool]:
    """Return the condition that a column, or the id of an ancestor further up, is the value."""
    table = ROWS[kind].__table__
    if name in table.c or kind.parent is None or kind.parent_field is None:
        equal: ColumnElement[bool] = table.c[name] == value
        return equal
    parents = ROWS[kind.parent].__table__
    return table.c[kind.parent_field].in_(select(parents.c.id).where(_having(kind.parent, name, value)))


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
    table, wanted = ROWS[kind].__table__, sorted(ids)
    found: dict[int, str] = {}
    for begin in range(0, len(wanted), _NAMES_AT_ONCE):
        query = select(table.c.id, table.c.name).where(table.c.id.in_(wanted[begin : begin + _NAMES_AT_ONCE]))
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
    table = ROWS[kind].__table__
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
        if kind.parent is not None and kind.parent_field is not None:
            parents, owner = {parent.id for parent in kept[kind.parent]}, attrgetter(kind.parent_field)
            kept[kind] = [entity for entity in kept[kind] if owner(entity) in parents]
    return Catalogue(**{kind.plural: tuple(kept[kind]) for kind in Kind})  # type: ignore[arg-type]


def revision(session: Session) -> int:
    """Return the count of writes the catalogue has seen: equal revisions mean equal catalogues."""
    number: int = session.execute(_REVISION).scalar_one()
    return number
