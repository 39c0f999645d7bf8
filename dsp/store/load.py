"""Loads a catalogue from a TOML file through the repository: what the file has, and nobody has changed, stays as it is.

The file has one array of tables per kind, `[[advertiser]]` ... `[[conversion_rule]]`, with the fields of the REST API.
`external_id` is required and identifies the entity; a child names its parent's, `campaign = "spring"`. A flight may be
relative to the load: `flight = { start_in_seconds = -60, end_in_seconds = 86400 }`. `status` holds for new entities.

Everything is judged by itself before anything is written. Then each thousand (of updates each two hundred) is written
in a transaction of its own, parents first, so that a large file keeps others from writing for moments only.
"""

import re
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Engine

from dsp.catalog.entities import Campaign, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight
from dsp.catalog.validate import parse
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import Fault, InputError, TransitionError, ValidationError
from dsp.store.catalog import ID_MAX, CatalogReader, CatalogRepository, updated
from dsp.store.database import session_factory

_RELATIVE = ("start_in_seconds", "end_in_seconds")
#: So many are created in one transaction, which takes less than half a second of an idle processor. To update one takes
#: as long as to create so many.
_TOGETHER = 1_000
_UPDATE_COST = 5
#: Between two parts, and never less than the first of them took: who waits for SQLite's lock is not queued, but looks
#: for it ten times a second.
_REST_SECONDS = 0.2
#: What a parent is called by, until the part in which it is created is written.
_LATER = ID_MAX
_NAMED_MAX = 3
_REFUSALS_MAX = 50


class LoadReport(msgspec.Struct, kw_only=True):
    """How many entities of each kind the load created, updated and left alone."""

    created: Counter[Kind] = msgspec.field(default_factory=Counter)
    updated: Counter[Kind] = msgspec.field(default_factory=Counter)
    unchanged: Counter[Kind] = msgspec.field(default_factory=Counter)


class _Planned(NamedTuple):
    """What is to be written of an entry: an entity below the parent it names, or an update of the entity `id`."""

    kind: Kind
    number: int
    external_id: str
    parent: str | None = None
    entity: Entity | None = None
    id: int = 0
    fields: Mapping[str, Any] = {}


class _Refusal(NamedTuple):
    kind: Kind
    number: int
    external_id: str
    fault: Fault


def read(path: Path) -> dict[str, Any]:
    """Return the file's tables.

    Raises:
        InputError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as fault:
        raise InputError(f"{path}: {fault}") from fault


class Load:
    """One load. `report` counts what is committed; loading the same tables twice changes nothing the second time.

    `flight_seconds` makes every relative flight end so long after now, whatever the tables say. `progress` is told what
    is done, with how many of how many entities.
    """

    def __init__(
        self,
        engine: Engine,
        actor: str,
        now_ms: int,
        flight_seconds: int | None = None,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        self.report = LoadReport()
        self._reads = session_factory(engine, read_only=True)
        self._writes = session_factory(engine)
        self._actor = actor
        self._now_ms = now_ms
        self._flight_seconds = flight_seconds
        self._progress = progress
        self._named: dict[Kind, set[str]] = {kind: set() for kind in Kind}  # external ids in the file

    def run(self, tables: Mapping[str, Any]) -> LoadReport:
        """Create or update what the tables describe.

        Raises:
            ValidationError: with what is refused, by table and number. Where an entry is refused by itself, nothing is
                written. What other entities refuse ends the load at the transaction it is in; those before stay.
        """
        planned = self._plan(tables)
        rest, done = 0.0, 0
        for part in _parts(planned):
            time.sleep(rest)
            began = time.monotonic()
            self._write(part)
            rest, done = max(_REST_SECONDS, time.monotonic() - began), done + len(part)
            self._progress("written", done, len(planned))
        return self.report

    def _plan(self, tables: Mapping[str, Any]) -> list[_Planned]:
        """Judge every entry by itself, beside what the database has of it."""
        known = [kind.value for kind in Kind]
        faults = [Fault(name, f"unknown table; tables are {', '.join(known)}") for name in tables if name not in known]
        entries: list[tuple[Kind, int, dict[str, Any]]] = []
        for kind in Kind:
            found = tables.get(kind, [])
            if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
                entries += [(kind, number, dict(entry)) for number, entry in enumerate(found)]
            else:
                faults.append(Fault(kind, f"must be an array of tables, [[{kind}]]"))
        planned: list[_Planned] = []
        refusals: list[_Refusal] = []
        with self._reads() as session:
            for begin in range(0, len(entries), _TOGETHER):
                some = entries[begin : begin + _TOGETHER]
                for kind, group in groupby(some, key=lambda each: each[0]):
                    numbered = [(number, entry) for _, number, entry in group]
                    refusals += self._judge(CatalogReader(session), kind, numbered, planned)
                self._progress("checked", begin + len(some), len(entries))
        _refuse(faults, refusals)
        return planned

    def _judge(
        self,
        reader: CatalogReader,
        kind: Kind,
        entries: Sequence[tuple[int, dict[str, Any]]],
        planned: list[_Planned],
    ) -> list[_Refusal]:
        """Add to what is planned; return what is refused."""
        refusals = []
        existing = reader.find_all(kind, [_external_id(entry) for _, entry in entries])
        parents = (
            {} if kind.parent is None else _ids(reader, kind.parent, [entry.get(kind.parent) for _, entry in entries])
        )
        for number, entry in entries:
            external_id = _external_id(entry)
            try:
                one = self._judge_one(kind, number, entry, existing.get(external_id), parents)
            except ValidationError as refused:
                refusals += [_Refusal(kind, number, external_id, fault) for fault in refused.faults]
            else:
                if one is None:
                    self.report.unchanged[kind] += 1
                else:
                    planned.append(one)
            self._named[kind].add(external_id)
        return refusals

    def _judge_one(
        self, kind: Kind, number: int, entry: dict[str, Any], before: Entity | None, parents: Mapping[str, int]
    ) -> _Planned | None:
        external_id = _external_id(entry)
        if not external_id:
            raise ValidationError([Fault("external_id", "is required in a file, as a string")])
        if external_id in self._named[kind]:
            raise ValidationError([Fault("external_id", f"another {kind.words} of the file has it")])
        status = _status(entry.pop("status", Status.DRAFT))
        parent = None
        if kind.parent is not None and kind.parent in entry:
            parent = entry.pop(kind.parent)
            if not isinstance(parent, str) or (parent not in parents and parent not in self._named[kind.parent]):
                raise ValidationError([Fault(kind.parent, f"there is no {kind.parent.words} with this external id")])
            entry[kind.parent_field] = parents.get(parent, _LATER)
        if "flight" in entry:
            current = before.flight if isinstance(before, Campaign | LineItem) else None
            entry["flight"] = _flight(entry["flight"], current, self._now_ms, self._flight_seconds)
        if before is None:
            made = msgspec.structs.replace(parse(kind, entry), status=status)
            return _Planned(kind, number, external_id, parent, made)
        fields = {**_absent(before, entry), **entry}
        try:
            after = updated(kind, before, fields)
        except TransitionError as fault:
            raise ValidationError([Fault("external_id", str(fault))]) from fault
        return None if after == before else _Planned(kind, number, external_id, id=before.id, fields=fields)

    def _write(self, part: Sequence[_Planned]) -> None:
        with self._writes.begin() as session:
            repository = CatalogRepository(session, self._actor, self._now_ms)
            for kind, group in groupby(part, key=lambda one: one.kind):
                some = list(group)
                refusals = _create(repository, kind, [one for one in some if one.entity is not None])
                for one in some:
                    if one.entity is None:
                        refusals += _update(repository, one)
                _refuse([], refusals)
        for one in part:
            counts = self.report.updated if one.entity is None else self.report.created
            counts[one.kind] += 1


def _parts(planned: Sequence[_Planned]) -> Iterator[list[_Planned]]:
    part: list[_Planned] = []
    cost = 0
    for one in planned:
        part.append(one)
        cost += _UPDATE_COST if one.entity is None else 1
        if cost >= _TOGETHER:
            yield part
            part, cost = [], 0
    if part:
        yield part


def _create(repository: CatalogRepository, kind: Kind, some: Sequence[_Planned]) -> list[_Refusal]:
    entities = [one.entity for one in some if one.entity is not None]
    if kind.parent is not None:
        parents = _ids(repository, kind.parent, [one.parent for one in some])
        entities = [
            entity
            if one.parent is None
            else msgspec.structs.replace(entity, **{kind.parent_field: parents.get(one.parent, _LATER)})
            for one, entity in zip(some, entities, strict=True)
        ]
    refused = repository.create_all(kind, entities)[1]
    return [_refusal(some[place], fault) for place, faults in refused.items() for fault in faults]


def _update(repository: CatalogRepository, one: _Planned) -> list[_Refusal]:
    try:
        repository.update(one.kind, one.id, one.fields)
    except ValidationError as refused:
        return [_refusal(one, fault) for fault in refused.faults]
    except TransitionError as fault:
        return [_refusal(one, Fault("external_id", str(fault)))]
    return []


def _ids(reader: CatalogReader, kind: Kind, names: Sequence[Any]) -> dict[str, int]:
    wanted = sorted({name for name in names if isinstance(name, str)})
    return {name: entity.id for name, entity in reader.find_all(kind, wanted).items()}


def _external_id(entry: Mapping[str, Any]) -> str:
    given = entry.get("external_id")
    return given.strip() if isinstance(given, str) else ""


def _refusal(one: _Planned, fault: Fault) -> _Refusal:
    return _Refusal(one.kind, one.number, one.external_id, fault)


def _refuse(faults: list[Fault], refusals: Sequence[_Refusal]) -> None:
    """Raise what is refused, if anything: the same said of many entries is told once, with some of their names."""
    alike: dict[tuple[Kind, str, str], list[_Refusal]] = {}
    for one in refusals:
        field = re.sub(r"\[\d+\]", "[]", one.fault.field)
        alike.setdefault((one.kind, field, one.fault.message), []).append(one)
    for same in list(alike.values())[:_REFUSALS_MAX]:
        kind, number, _, fault = same[0]
        names = ", ".join(dict.fromkeys(one.external_id for one in same[:_NAMED_MAX] if one.external_id))
        more = f" and {len(same) - _NAMED_MAX:,} more" if len(same) > _NAMED_MAX else ""
        told = f"{fault.message} ({names}{more})" if names or more else fault.message
        faults.append(Fault(f"{kind}[{number}].{fault.field}", told))
    if len(alike) > _REFUSALS_MAX:
        faults.append(Fault("others", f"{len(alike) - _REFUSALS_MAX:,} more kinds of refusal"))
    if faults:
        raise ValidationError(faults)


def _status(value: Any) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise ValidationError([Fault("status", f"must be one of {', '.join(Status)}")]) from None


def _absent(before: Entity, entry: dict[str, Any]) -> dict[str, None]:
    """Return nulls for the fields that the file leaves out, so that they go back to their defaults."""
    optional = [field.name for field in msgspec.structs.fields(before) if not field.required]
    return {name: None for name in optional if name not in entry and name not in ("status", "version")}


def _flight(value: Any, current: Flight | None, now_ms: int, flight_seconds: int | None) -> Any:
    """Turn a relative flight into an absolute one; a flight of the same length that still runs stays as it is."""
    if not isinstance(value, dict) or not any(name in value for name in _RELATIVE):
        return value
    faults = [
        Fault(f"flight.{name}", "must be a whole number of seconds")
        if name in _RELATIVE
        else Fault(f"flight.{name}", "cannot stand beside relative times")
        for name, given in value.items()
        if name not in _RELATIVE or type(given) is not int
    ]
    if faults:
        raise ValidationError(faults)
    start_ms = now_ms + value.get("start_in_seconds", 0) * MS_PER_SECOND
    end_in = value.get("end_in_seconds") if flight_seconds is None else flight_seconds
    end_ms = None if end_in is None else now_ms + end_in * MS_PER_SECOND
    if current is not None and _length(current.start_ms, current.end_ms) == _length(start_ms, end_ms):
        running = current.end_ms is None or now_ms < current.end_ms
        if running:
            return {"start_ms": current.start_ms, "end_ms": current.end_ms}
    return {"start_ms": start_ms, "end_ms": end_ms}


def _length(start_ms: int, end_ms: int | None) -> int | None:
    return None if end_ms is None else end_ms - start_ms
