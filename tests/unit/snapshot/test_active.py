"""Statuses published beside the snapshot: what they do to it, and to which."""

from dataclasses import fields
from random import Random

import msgspec
import pytest

from dsp.catalog.entities import Catalogue
from dsp.catalog.status import Status
from dsp.funnel import explain, select
from dsp.pacing.columns import align
from dsp.snapshot import active
from dsp.snapshot.active import Active
from dsp.snapshot.build import Snapshot, build
from dsp.targeting import bitmap
from dsp.workers.snapshot import limits
from tests.property.test_recall import NOW_MS, SEAT, catalogue, impression, person
from tests.unit.snapshot.test_snapshot import CATALOGUE

BUILT_MS = 1_000


def told(*line_item_ids: int, snapshot: str = "v1", revision: int = 5, at_ms: int = BUILT_MS) -> Active:
    return active.decode(active.encode(line_item_ids, snapshot, revision, at_ms))


def alive(snapshot: Snapshot) -> list[int]:
    return snapshot.line_item_ids[bitmap.positions(snapshot.index.active)].tolist()  # type: ignore[no-any-return]


def test_who_is_active_in_its_own_snapshot() -> None:
    snapshot = build(CATALOGUE, "v1", BUILT_MS)
    assert alive(snapshot) == [5, 7]
    paused = told(7, 99).on(snapshot)
    assert alive(paused) == [7]
    assert paused.version == "v1"
    assert alive(snapshot) == [5, 7]  # auctions that began with it go on with it
    assert alive(told(5, 7, at_ms=BUILT_MS - 1).on(paused)) == [5, 7]  # resumed, by a clock that was set back
    assert alive(told().on(snapshot)) == []


def test_in_another_snapshot_nobody_is_let_in() -> None:
    """Who has been resumed may have been changed before: he waits for the snapshot that says how."""
    snapshot = told(7).on(build(CATALOGUE, "v1", BUILT_MS))
    assert alive(told(5, 7, snapshot="v2").on(snapshot)) == [7]
    assert alive(told(5, snapshot="v2").on(snapshot)) == []


def test_a_younger_snapshot_knows_better() -> None:
    assert alive(told(5, snapshot="v0", at_ms=BUILT_MS - 1).on(build(CATALOGUE, "v1", BUILT_MS))) == [5, 7]


def test_an_old_snapshot_that_comes_late_lets_nobody_bid_who_is_paused() -> None:
    latest = told(7, snapshot="v3", at_ms=BUILT_MS + 9)
    assert alive(latest.on(build(CATALOGUE, "v2", BUILT_MS))) == [7]


def test_what_comes_late_is_told_by_revision_and_time_together() -> None:
    latest = told(revision=5, at_ms=50)
    assert told(revision=4, at_ms=40).older_than(latest)
    assert not told(revision=4, at_ms=60).older_than(latest)  # of a database that was restored
    assert not told(revision=6, at_ms=40).older_than(latest)  # by a clock that was set back
    assert not latest.older_than(latest)


@pytest.mark.parametrize(
    "data", [b"", b"{}", msgspec.msgpack.encode({"type": "snapshot.2"}), active.encode([1], "v", 1, 1)[:-1]]
)
def test_bytes_that_tell_nothing(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        active.decode(data)


def test_ids_that_are_cut_off_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        active.decode(msgspec.msgpack.encode(msgspec.structs.replace(told(1), line_item_ids=b"1234567")))


def changed(random: Random, before: Catalogue) -> Catalogue:
    """Give some entities another status."""
    statuses = (Status.ACTIVE, Status.ACTIVE, Status.PAUSED, Status.DRAFT)
    return msgspec.structs.replace(
        before,
        **{
            kind: tuple(
                msgspec.structs.replace(one, status=random.choice(statuses)) if random.random() < 0.3 else one
                for one in getattr(before, kind)
            )
            for kind in ("advertisers", "campaigns", "line_items")
        },
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_funnel_and_its_explanation_are_those_of_a_new_snapshot(seed: int) -> None:
    random = Random(seed)
    before = catalogue(random, 40, 0.1)
    before = msgspec.structs.replace(  # without orphans, whom nobody can count as active
        before,
        campaigns=tuple(msgspec.structs.replace(one, advertiser_id=one.id % 3 + 1) for one in before.campaigns),
        line_items=tuple(msgspec.structs.replace(one, campaign_id=one.id % 8 + 1) for one in before.line_items),
    )
    old = build(before, "v1", BUILT_MS)
    controls = align(None, old.line_item_ids)
    impressions = [(impression(random), person(random, 40)) for _ in range(20)]
    for one, user in impressions:  # so that something is remembered
        select(old, one, user, controls, NOW_MS, 4, SEAT)
    after = changed(random, before)
    new, beside = build(after, "v1", BUILT_MS), told(*(one.line_item_id for one in limits(after) if one.active)).on(old)
    for one, user in impressions:
        expected, found = (explain(each, one, user, controls, NOW_MS, 4, SEAT) for each in (new, beside))
        assert (found.verdicts, found.left) == (expected.verdicts, expected.left)
        wanted, chosen = (select(each, one, user, controls, NOW_MS, 4, SEAT) for each in (new, beside))
        assert repr(chosen) == repr(wanted)
    # One by one: dataclasses that hold arrays cannot be compared since Python 3.13.
    assert all(getattr(beside, each.name) is getattr(old, each.name) for each in fields(old) if each.name != "index")
