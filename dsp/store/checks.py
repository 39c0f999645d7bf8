"""What only the other entities can tell of one: a wrong parent, a goal without meaning, an identity that is taken."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from dsp.catalog.entities import Advertiser, Campaign, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.catalog.terms import Budget, GoalKind
from dsp.kernel.clock import knows_timezone
from dsp.kernel.errors import Fault
from dsp.store.book_tables import BookDayRow
from dsp.store.rows import find, pieces
from dsp.store.tables import TABLES, CampaignRow, ConversionRuleRow, LineItemRow

#: Fields that must be unique within a kind.
_EXTERNAL_ID = ("external_id",)
_UNIQUE: dict[Kind, tuple[str, ...]] = {
    Kind.DEAL: ("deal_id", "exchange"),
    Kind.AUDIENCE: ("segment_id", "advertiser_id"),
}
Faults = list[Fault]


class Checks:
    """Judges entities of one session, whose caller sees to it that nobody else writes meanwhile."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._read: dict[tuple[Kind, int], Entity] = {}  # ancestors, each read once for all that are judged

    def forget(self, kind: Kind, id: int) -> None:
        """Read an entity anew if the next ones are judged by it: it was changed."""
        self._read.pop((kind, id), None)

    def created(self, kind: Kind, entities: Sequence[Entity]) -> dict[int, Faults]:
        """Return what is wrong with new entities that are to have the status they have, by place."""
        self._read_ancestors(kind, entities)
        taken = self._taken(kind, entities)
        refused = {}
        for place, entity in enumerate(entities):
            draft = msgspec.structs.replace(entity, status=Status.DRAFT)
            faults = self._parent_faults(kind, draft) or self._within(draft, None)
            faults += taken.get(place, [])
            if not faults and entity.status in (Status.ACTIVE, Status.PAUSED):  # what is paused was active before
                faults = self.activated(msgspec.structs.replace(entity, status=Status.ACTIVE), draft)
            if faults:
                refused[place] = faults
        return refused

    def changed(self, kind: Kind, entity: Entity, before: Entity) -> Faults:
        """Return what is wrong with another version of an entity."""
        faults: Faults = []
        if kind.parent is not None and getattr(entity, kind.parent_field) != getattr(before, kind.parent_field):
            # Money is booked under the ancestors an entity had, so it cannot move.
            faults.append(Fault(kind.parent_field, "cannot be changed"))
        faults += self._timezone_faults(entity, before)
        faults += self._budget_faults(entity, before)
        if not faults:
            faults += self._within(entity, before)
        return faults + self._taken(kind, [entity], before).get(0, [])

    def activated(self, entity: Entity, before: Entity) -> Faults:
        """Return what keeps an entity from being active: nothing would bound what it spends, or be worth it."""
        faults = self._budget_faults(entity, before)
        return faults + self._goal_faults(entity, before) if isinstance(entity, LineItem) else faults

    def _parent_faults(self, kind: Kind, entity: Entity) -> Faults:
        if kind.parent is None:
            return []
        above, of = self._of(kind, entity), ""
        if above is None:
            return [Fault(kind.parent_field, f"there is no {kind.parent.words} {getattr(entity, kind.parent_field)}")]
        for ancestor in kind.ancestors:  # below one that is archived nothing bids again
            if above is not None and above.status is Status.ARCHIVED:
                return [Fault(kind.parent_field, f"the {ancestor.words}{of} is archived")]
            if above is not None:
                above, of = self._of(ancestor, above), f" of the {ancestor.words}{of}"
        return []

    def _within(self, entity: Entity, before: Entity | None) -> Faults:
        if not isinstance(entity, LineItem):
            return []
        return self._goal_faults(entity, before) + self._flight_faults(entity, before)

    def _timezone_faults(self, entity: Entity, before: Entity) -> Faults:
        """Refuse to move an advertiser's days once the book has some.

        The day that has begun elsewhere has a daily budget of its own, and reports would mix the days of two zones. A
        zone that this machine does not know has no days here.
        """
        if not isinstance(entity, Advertiser) or not isinstance(before, Advertiser):
            return []
        if entity.timezone == before.timezone or not knows_timezone(before.timezone):
            return []
        booked = select(BookDayRow.day).where(BookDayRow.advertiser_id == entity.id)
        if self._session.scalar(booked.limit(1)) is None:
            return []
        return [Fault("timezone", "cannot be changed any more: the advertiser has bid, by the days of this one")]

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

    def _budget_faults(self, entity: Entity, before: Entity) -> Faults:
        """Refuse a change after which a line item is active that no budget bounds, its own or its campaign's."""
        if not isinstance(entity, Campaign | LineItem) or not isinstance(before, Campaign | LineItem):
            return []
        same = (entity.budget, entity.status) == (before.budget, before.status)
        if same or entity.budget != Budget():
            return []
        if isinstance(entity, LineItem):
            campaign = cast(Campaign, self._of(Kind.LINE_ITEM, entity))
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
        whole = cast(Campaign, self._of(Kind.LINE_ITEM, line_item)).flight
        shared = line_item.flight.within(whole)
        if shared.end_ms is None or shared.start_ms < shared.end_ms:
            return []
        to = "open" if whole.end_ms is None else whole.end_ms
        return [Fault("flight", f"lies outside the campaign's, which is from {whole.start_ms} to {to}")]

    def _taken(self, kind: Kind, entities: Sequence[Entity], before: Entity | None = None) -> dict[int, Faults]:
        """Return which entities have an identity that another has, of the database or of these; `before` had one."""
        refused: dict[int, Faults] = {}
        for fields in (_EXTERNAL_ID, *([_UNIQUE[kind]] if kind in _UNIQUE else [])):
            identities = [_identity(entity, fields) for entity in entities]
            if before is not None and identities == [_identity(before, fields)]:
                continue
            holders = self._holders(kind, fields, [one for one in identities if one[0] is not None])
            seen = set()
            for place, (entity, identity) in enumerate(zip(entities, identities, strict=True)):
                if (other := holders.get(identity, entity.id)) != entity.id:
                    refused.setdefault(place, []).append(Fault(fields[0], f"is taken by {kind.words} {other}"))
                elif identity in seen:
                    refused.setdefault(place, []).append(Fault(fields[0], "is given twice"))
                if identity[0] is not None:
                    seen.add(identity)
        return refused

    def _holders(
        self, kind: Kind, fields: tuple[str, ...], identities: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], int]:
        table = TABLES[kind]
        found: dict[tuple[Any, ...], int] = {}
        for some in pieces(identities):
            query = select(table.c.id, *[table.c[name] for name in fields])
            for name, values in zip(fields, zip(*some, strict=True), strict=True):
                query = query.where(table.c[name].in_(set(values)))
            found |= {tuple(identity): number for number, *identity in self._session.execute(query)}
        return found

    def _read_ancestors(self, kind: Kind, entities: Sequence[Entity]) -> None:
        while kind.parent is not None:
            wanted = {getattr(entity, kind.parent_field) for entity in entities}
            kind = kind.parent
            unread = [number for number in wanted if (kind, number) not in self._read]
            found = find(self._session, kind, "id", unread)
            self._read |= {(kind, number): entity for number, entity in found.items()}
            entities = [self._read[kind, number] for number in wanted if (kind, number) in self._read]

    def _of(self, kind: Kind, entity: Entity) -> Entity | None:
        """Return an entity's parent."""
        if kind.parent is None:
            return None
        number = getattr(entity, kind.parent_field)
        if (kind.parent, number) not in self._read:
            self._read_ancestors(kind, [entity])
        return self._read.get((kind.parent, number))


def _identity(entity: Entity, fields: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(entity, name) for name in fields)
