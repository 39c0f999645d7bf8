"""An index that follows another has worked out what that one was asked last."""

from random import Random

import pytest

from dsp.funnel import select
from dsp.pacing.columns import align
from dsp.snapshot.build import Snapshot, build
from dsp.targeting.joint import Group
from tests.property.test_recall import NOW_MS, SEAT, catalogue, impression, person

ASKED = [impression(Random(seed)) for seed in range(40)]
USER = person(Random(1), 60)


def choices(snapshot: Snapshot) -> list[str]:
    controls = align(None, snapshot.line_item_ids)
    return [repr(select(snapshot, one, USER, controls, NOW_MS, 8, SEAT)) for one in ASKED]


def test_what_the_index_before_was_asked_last_is_worked_out_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    before, plain, followed = (build(catalogue(Random(seed), 60, 0.2), "v", NOW_MS) for seed in (1, 2, 2))
    choices(before)
    assert len(list(followed.index.follow(before.index))) == len(ASKED)
    expected = choices(plain)
    made: list[Group[object, object]] = []
    make = Group._row
    monkeypatch.setattr(Group, "_row", lambda self, asked: made.append(self) or make(self, asked))
    assert choices(followed) == expected
    assert not made
    assert len(list(build(catalogue(Random(2), 60, 0.2), "v", NOW_MS).index.follow(followed.index))) == 64  # the last


def test_who_was_asked_nothing_is_not_followed() -> None:
    one, other = (build(catalogue(Random(seed), 20, 0.2), "v", NOW_MS) for seed in (1, 2))
    assert not list(other.index.follow(one.index))
