"""The catalogue kept by the log of its writes against the catalogue read."""

from random import Random

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, insert, update

from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.kernel.errors import TransitionError, ValidationError
from dsp.store.catalog import CatalogRepository, load_catalogue
from dsp.store.database import session_factory
from dsp.store.replica import Replica
from dsp.store.tables import ChangeRow, DealRow, LineItemRow, RevisionRow


@pytest.fixture
def database(sqlite: str) -> str:
    return sqlite


def write(repository: CatalogRepository, random: Random, ids: dict[Kind, list[int]]) -> None:
    """Write something, or nothing where it is refused."""
    kind = random.choice([kind for kind in Kind if kind.parent is None or ids[kind.parent]])
    try:
        if not ids[kind] or random.random() < 0.4:
            fields = {
                "name": "n",
                **({kind.parent_field: random.choice(ids[kind.parent])} if kind.parent else {}),
                **FIELDS[kind],
            }
            if kind is Kind.DEAL:
                fields["deal_id"] = f"d{random.random()}"
            if kind is Kind.AUDIENCE:
                fields["segment_id"] = f"s{random.random()}"
            ids[kind].append(repository.create(kind, fields).id)
        elif random.random() < 0.5:
            repository.update(kind, random.choice(ids[kind]), {"name": f"n{random.random()}"})
        else:
            statuses = (*[Status.ACTIVE, Status.PAUSED] * 3, Status.ARCHIVED)
            repository.set_status(kind, random.choice(ids[kind]), random.choice(statuses))
    except (TransitionError, ValidationError):
        pass


FLIGHT = {"start_ms": 1_750_000_000_000, "end_ms": 1_750_000_100_000}
FIELDS: dict[Kind, dict[str, object]] = {
    Kind.ADVERTISER: {"domain": "brand.example", "frequency_caps": [{"impressions": 3, "window_seconds": 60}]},
    Kind.CONVERSION_RULE: {"value_micros": 5},
    Kind.CAMPAIGN: {"flight": FLIGHT, "budget": {"daily_micros": 5}},
    Kind.LINE_ITEM: {
        "flight": FLIGHT,
        "goal": {"kind": "cpm", "target_micros": 2_000_000},
        "targeting": {"clauses": {"country": {"include": ["USA"]}}},
    },
    Kind.CREATIVE: {
        "format": "banner", "width": 300, "height": 250, "landing_url": "https://brand.example/", "markup": "<b>",
    },
    Kind.DEAL: {"exchange": "e"},
    Kind.AUDIENCE: {},
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_catalogue_after_every_write(engine: Engine, seed: int) -> None:
    random, replica = Random(seed), Replica()
    ids: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    sessions, views = session_factory(engine), session_factory(engine, read_only=True)
    read_anew, seen = 0, set()
    for _ in range(80):
        with sessions.begin() as session:
            for _ in range(random.randint(0, 4)):
                write(CatalogRepository(session, "t", 1), random, ids)
        with views() as session:
            read_anew += replica.follow(session) is None
            assert (replica.revision, replica.catalogue()) == load_catalogue(session)
        rest = {"creatives": (), "deals": (), "audiences": (), "conversion_rules": ()}
        assert replica.catalogue(Kind.LINE_ITEM) == msgspec.structs.replace(replica.catalogue(), **rest)
        seen |= {kind for kind in Kind if getattr(replica.catalogue(), kind.plural)}
    assert read_anew == 1
    assert seen == set(Kind)


def test_writes_are_told_in_order(engine: Engine) -> None:
    replica = Replica()
    sessions = session_factory(engine)
    with sessions.begin() as session:
        assert replica.follow(session) is None
        repository = CatalogRepository(session, "t", 1)
        repository.create(Kind.ADVERTISER, {"name": "a", "domain": "brand.example"})
        repository.set_status(Kind.ADVERTISER, 1, Status.ACTIVE)
        writes = replica.follow(session)
        assert writes is not None
        assert [(write.kind, write.before and write.before["status"], write.after["status"]) for write in writes] == [
            (Kind.ADVERTISER, None, "draft"), (Kind.ADVERTISER, "draft", "active"),
        ]  # fmt: skip
        assert replica.follow(session) == []


def test_a_newer_version_s_log_is_not_followed(engine: Engine) -> None:
    """It knows fields that this one does not: rows are read without them."""
    replica = Replica()
    with session_factory(engine).begin() as session:
        replica.follow(session)
        advertiser = CatalogRepository(session, "t", 1).create(Kind.ADVERTISER, {"name": "a", "domain": "b.example"})
        session.execute(update(ChangeRow).values(after={**msgspec.to_builtins(advertiser), "invented": 1}))
        assert replica.follow(session) is None
        assert replica.catalogue().advertisers == (advertiser,)


def test_a_log_that_does_not_fit_is_not_followed(engine: Engine) -> None:
    """Another database's, or one that somebody has cut."""
    replica = Replica()
    with session_factory(engine).begin() as session:
        replica.follow(session)
        CatalogRepository(session, "t", 1).create(Kind.ADVERTISER, {"name": "a", "domain": "brand.example"})
        session.execute(update(RevisionRow).values(revision=7))
        assert replica.follow(session) is None
        assert (replica.revision, replica.catalogue()) == load_catalogue(session)
        session.execute(update(RevisionRow).values(revision=3))
        assert replica.follow(session) is None
        assert replica.revision == 3


def test_as_many_writes_as_a_standby_lacked_are_not_taken_for_them(engine: Engine) -> None:
    sessions, replica = session_factory(engine), Replica()
    with sessions.begin() as session:
        number = (
            CatalogRepository(session, "test", 1).create(Kind.ADVERTISER, {"name": "n", **FIELDS[Kind.ADVERTISER]}).id
        )
    with sessions() as session:
        replica.follow(session)
    lost = sessions()
    CatalogRepository(lost, "test", 1).update(Kind.ADVERTISER, number, {"name": "lost"})
    replica.follow(lost)  # was committed, and then its server was gone
    lost.rollback()
    lost.close()
    with sessions.begin() as session:
        CatalogRepository(session, "test", 1).update(Kind.ADVERTISER, number, {"name": "kept"})
        session.execute(
            update(ChangeRow).where(ChangeRow.version == 2).values(id=33)
        )  # PostgreSQL's sequences skip some
    with sessions() as session:
        assert replica.follow(session) is None
        assert [one.name for one in replica.catalogue().advertisers] == ["kept"]
        assert replica.follow(session) == []


def test_what_cannot_be_read_is_left_out_and_the_rest_is_there(engine: Engine) -> None:
    """A newer version may have written a kind of goal, or of auction, that nobody here knows."""
    replica = Replica()

    def ids() -> tuple[list[int], ...]:
        found = replica.catalogue()
        return tuple([one.id for one in getattr(found, name)] for name in ("line_items", "creatives", "deals"))

    def unreadable() -> float:
        return REGISTRY.get_sample_value("dsp_catalogue_unreadable") or 0.0

    with session_factory(engine).begin() as session:
        repository = CatalogRepository(session, "t", 1)
        for kind, parents in ((Kind.ADVERTISER, [{}]), (Kind.CAMPAIGN, [{"advertiser_id": 1}]),
                              (Kind.LINE_ITEM, [{"campaign_id": 1}] * 2),
                              (Kind.CREATIVE, [{"line_item_id": 1}, {"line_item_id": 2}]),
                              (Kind.DEAL, [{"deal_id": "d1"}, {"deal_id": "d2"}])):  # fmt: skip
            for parent in parents:
                repository.create(kind, {"name": "n", **FIELDS[kind], **parent})
        replica.follow(session)
        assert (ids(), unreadable()) == (([1, 2], [1, 2], [1, 2]), 0.0)
        session.execute(update(LineItemRow).where(LineItemRow.id == 1).values(goal_kind="attention", version=2))
        session.execute(update(DealRow).where(DealRow.id == 1).values(auction="sealed"))
        written = {"kind": Kind.LINE_ITEM.value, "entity_id": 1, "version": 2, "at_ms": 1, "actor": "t"}
        goal = {"goal": {"kind": "attention"}}
        session.execute(insert(ChangeRow).values(**written, action="update", before={}, after=goal))
        session.execute(update(RevisionRow).values(revision=RevisionRow.revision + 1))
        assert replica.follow(session) is None
        assert (ids(), unreadable()) == (([2], [2], [1, 2]), 2.0)
        barred = replica.catalogue().deals[0]  # its line items must not bid on any terms
        assert (barred.exchange, barred.deal_id, barred.status) == ("e", "d1", Status.ARCHIVED)
        repository.update(Kind.LINE_ITEM, 2, {"name": "m"})
        assert replica.follow(session)
        session.execute(update(LineItemRow).where(LineItemRow.id == 1).values(goal_kind="cpc"))
        repository.update(Kind.LINE_ITEM, 1, {"name": "m"})
        assert replica.follow(session) is None
        assert (ids(), unreadable()) == (([1, 2], [1, 2], [1, 2]), 1.0)
