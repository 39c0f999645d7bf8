"""Loads a catalogue from a TOML file through the repository: what the file has, and nobody has changed, stays as it is.

The file has one array of tables per kind, `[[advertiser]]` ... `[[conversion_rule]]`, with the fields of the REST API.
`external_id` is required and identifies the entity; a child names its parent's, `campaign = "spring"`. A flight may be
relative to the load: `flight = { start_in_seconds = -60, end_in_seconds = 86400 }`. `status` holds for new entities.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dsp.catalog.entities import Campaign, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import Fault, InputError, TransitionError, ValidationError
from dsp.store.catalog import CatalogRepository

_RELATIVE = ("start_in_seconds", "end_in_seconds")


class LoadReport(msgspec.Struct, kw_only=True):
    """How many entities of each kind the load created, updated and left alone."""

    created: dict[Kind, int] = {}
    updated: dict[Kind, int] = {}
    unchanged: dict[Kind, int] = {}


def read(path: Path) -> dict[str, Any]:
    """Return the file's tables.

    Raises:
        InputError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as fault:
        raise InputError(f"{path}: {fault}") from fault


def load(
    repository: CatalogRepository, tables: Mapping[str, Any], now_ms: int, flight_seconds: int | None = None
) -> LoadReport:
    """Create or update what the tables describe; loading the same tables twice changes nothing the second time.

    `flight_seconds` makes every relative flight end so long after now, whatever the tables say.

    Raises:
        ValidationError: with every refused field, by table and number; the caller must roll back.
    """
    report = LoadReport()
    known = [kind.value for kind in Kind]
    faults = [Fault(name, f"unknown table; tables are {', '.join(known)}") for name in tables if name not in known]
    for kind in Kind:
        entries = tables.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            faults.append(Fault(kind, f"must be an array of tables, [[{kind}]]"))
            continue
        for number, entry in enumerate(entries):
            try:
                outcome = _load_one(repository, kind, dict(entry), now_ms, flight_seconds)
            except ValidationError as refused:
                faults += [Fault(f"{kind}[{number}].{fault.field}", fault.message) for fault in refused.faults]
            else:
                outcomes: dict[Kind, int] = getattr(report, outcome)
                outcomes[kind] = outcomes.get(kind, 0) + 1
    if faults:
        raise ValidationError(faults)
    return report


def _load_one(
    repository: CatalogRepository, kind: Kind, entry: dict[str, Any], now_ms: int, flight_seconds: int | None
) -> str:
    external_id = entry.get("external_id")
    if not isinstance(external_id, str) or not external_id.strip():
        raise ValidationError([Fault("external_id", "is required in a file, as a string")])
    status = _status(entry.pop("status", Status.DRAFT))
    _name_parent(repository, kind, entry)
    before = repository.find(kind, external_id.strip())
    if "flight" in entry:
        current = before.flight if isinstance(before, Campaign | LineItem) else None
        entry["flight"] = _flight(entry["flight"], current, now_ms, flight_seconds)
    try:
        if before is None:
            made = repository.create(kind, entry)
            _bring(repository, kind, made, status)
            return "created"
        after = repository.update(kind, before.id, {**_absent(before, entry), **entry})
    except TransitionError as fault:
        raise ValidationError([Fault("external_id", str(fault))]) from fault
    return "unchanged" if after.version == before.version else "updated"


def _status(value: Any) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise ValidationError([Fault("status", f"must be one of {', '.join(Status)}")]) from None


def _bring(repository: CatalogRepository, kind: Kind, entity: Entity, status: Status) -> None:
    """Take a new entity to its status by the steps the life cycle has."""
    if status is Status.PAUSED:
        repository.set_status(kind, entity.id, Status.ACTIVE)
    if status is not Status.DRAFT:
        repository.set_status(kind, entity.id, status)


def _name_parent(repository: CatalogRepository, kind: Kind, entry: dict[str, Any]) -> None:
    """Replace the parent's external id by its id."""
    if kind.parent is None or kind.parent_field is None or kind.parent not in entry:
        return
    name = entry.pop(kind.parent)
    parent = repository.find(kind.parent, name) if isinstance(name, str) else None
    if parent is None:
        raise ValidationError([Fault(kind.parent, f"there is no {kind.parent.words} with this external id")])
    entry[kind.parent_field] = parent.id


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
