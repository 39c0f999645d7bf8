"""Loading a catalogue: what is written, what is refused, and what that costs others."""

from typing import Any

import pytest
from sqlalchemy import Engine, event

from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.kernel.errors import ValidationError
from dsp.store.catalog import CatalogReader, CatalogRepository, revision
from dsp.store.changes import list_changes
from dsp.store.database import session_factory
from dsp.store.load import Load

FLIGHT = {"start_ms": 0, "end_ms": 2_000_000_000_000}
GOAL = {"kind": "cpm", "target_micros": 1_000_000}
_NOW_MS = 1_700_000_000_000


def _tables(advertisers: int, line_items: int = 0, status: str = "active") -> dict[str, Any]:
    return {
        "advertiser": [
            {"external_id": f"a{number}", "name": "A", "domain": "a.example", "status": status}
            for number in range(advertisers)
        ],
        "campaign": [
            {"external_id": "c", "advertiser": "a0", "name": "C", "flight": FLIGHT, "budget": {"daily_micros": 9}}
        ],
        "line_item": [
            {"external_id": f"l{n}", "campaign": "c", "name": "L", "flight": FLIGHT, "goal": GOAL, "status": status}
            for n in range(line_items)
        ],
    }


def _load(engine: Engine) -> Load:
    return Load(engine, "t", _NOW_MS)


@pytest.mark.parametrize("status", Status)
def test_what_is_loaded_is_as_if_it_had_been_created_and_taken_to_its_status(engine: Engine, status: Status) -> None:
    _load(engine).run({"advertiser": _tables(1, status=status)["advertiser"]})
    steps = {Status.DRAFT: [], Status.PAUSED: [Status.ACTIVE, Status.PAUSED]}.get(status, [status])
    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", _NOW_MS)
        other = repository.create(Kind.ADVERTISER, {"external_id": "other", "name": "A", "domain": "a.example"})
        for step in steps:
            repository.set_status(Kind.ADVERTISER, other.id, step)
    with session_factory(engine, read_only=True)() as session:
        loaded, same = (
            [
                (one.number - number * len(steps) - number, one.version, one.action, one.at_ms, one.actor,
                 one.before and {**one.before, "id": 0, "external_id": ""}, {**one.after, "id": 0, "external_id": ""})
                for one in list_changes(session, {"entity_id": 1 + number}, 0, 0, 9)
            ]
            for number in range(2)
        )  # fmt: skip
        assert loaded == same
        assert revision(session) == 2 + 2 * len(steps)
        entities = CatalogReader(session).list(Kind.ADVERTISER)
        assert {(one.status, one.version) for one in entities} == {(status, 1 + len(steps))}


def test_a_large_file_costs_few_statements(engine: Engine) -> None:
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    event.listen(engine, "before_execute", count)
    report = _load(engine).run(_tables(10, 900))
    assert report.created == {Kind.ADVERTISER: 10, Kind.CAMPAIGN: 1, Kind.LINE_ITEM: 900}
    assert statements < 90
    statements = 0
    assert _load(engine).run(_tables(10, 900)).unchanged == report.created
    assert statements < 20


def test_others_write_while_a_large_file_is_loaded(engine: Engine) -> None:
    def write(what: str, done: int, of: int) -> None:
        with session_factory(engine).begin() as session:
            fields = {"name": f"{what} {done} of {of}", "domain": "other.example"}
            CatalogRepository(session, "other", _NOW_MS).create(Kind.ADVERTISER, fields)

    Load(engine, "t", _NOW_MS, progress=write).run(_tables(1_500))
    with session_factory(engine, read_only=True)() as session:
        others = CatalogReader(session).list(Kind.ADVERTISER, {"domain": "other.example"})
        names = ["checked 1000 of 1501", "checked 1501 of 1501", "written 1000 of 1501", "written 1501 of 1501"]
        assert [one.name for one in others] == names


def test_updates_are_written_fewer_at_a_time(engine: Engine) -> None:
    told: list[tuple[str, int, int]] = []
    _load(engine).run(_tables(500))
    tables = _tables(500)
    for one in tables["advertiser"]:
        one["name"] = "B"
    load = Load(engine, "t", _NOW_MS, progress=lambda what, *count: told.append((what, *count)))
    assert load.run(tables).updated == {Kind.ADVERTISER: 500}
    assert told[1:] == [("written", 200, 500), ("written", 400, 500), ("written", 500, 500)]
    with session_factory(engine, read_only=True)() as session:
        found = CatalogReader(session).list(Kind.ADVERTISER, limit=501)
        assert {(one.name, one.version) for one in found} == {("B", 3)}
        assert revision(session) == 1_501


def test_what_other_entities_refuse_ends_the_load_and_loading_again_goes_on(engine: Engine) -> None:
    tables = _tables(1_000, 2)
    tables["line_item"][1]["flight"] = {"start_ms": 2_000_000_000_000}
    load = _load(engine)
    with pytest.raises(ValidationError, match=r"line_item\[1\]\.flight: lies outside .*\(l1\)$"):
        load.run(tables)
    assert load.report.created == {Kind.ADVERTISER: 1_000}
    report = _load(engine).run(_tables(1_000, 2))
    assert (report.created, report.unchanged) == ({Kind.CAMPAIGN: 1, Kind.LINE_ITEM: 2}, {Kind.ADVERTISER: 1_000})


def test_the_same_refusal_of_many_is_told_once_and_nothing_is_written(engine: Engine) -> None:
    tables = _tables(1_500, 2_000)
    for one in tables["line_item"]:
        one["goal"] = {"kind": "cpm", "target_micros": 0}
    tables["line_item"][7]["name"] = ""
    tables["campaign"].append(tables["campaign"][0])
    load = _load(engine)
    with pytest.raises(ValidationError) as refused:
        load.run(tables)
    assert load.report.created == {}
    told = {fault.field: fault.message for fault in refused.value.faults}
    assert sorted(told) == ["campaign[1].external_id", "line_item[0].goal.target_micros", "line_item[7].name"]
    assert told["line_item[0].goal.target_micros"].endswith(" (l0, l1, l2 and 1,997 more)")
    with session_factory(engine, read_only=True)() as session:
        assert revision(session) == 0


def test_an_identity_that_two_of_a_file_have_is_refused(engine: Engine) -> None:
    deal = {"name": "D", "exchange": "e", "deal_id": "d"}
    with pytest.raises(ValidationError, match=r"deal\[1\]\.deal_id: is given twice"):
        _load(engine).run({"deal": [{**deal, "external_id": "one"}, {**deal, "external_id": "two"}]})
    _load(engine).run({"deal": [{**deal, "external_id": "one"}]})
    with pytest.raises(ValidationError, match="is taken by deal 1"):
        _load(engine).run({"deal": [{**deal, "external_id": "two"}]})
