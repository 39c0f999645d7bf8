"""Rows of groups and reasons: worked out once a key, and bounded in number and in bytes."""

import numpy as np
import pytest

from dsp.catalog.reasons import Exclusion
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.joint import SPELLINGS_CHARS_MAX, Group, Reasons, Step
from dsp.targeting.rows import Conditions


class Multiples(Group[int, Words]):
    """Members that are multiples of the number asked; 0 asks for nothing."""

    def __init__(self, size: int) -> None:
        super().__init__(self.spell, bitmap.zeros(size).nbytes)
        self.size = size
        self.asked: list[int] = []

    def spell(self, asked: int) -> str:
        return f"{asked:05}"

    def key(self, asked: int) -> int:
        return asked

    def require(self, asked: int, out: Conditions) -> None:
        self.asked.append(asked)
        if asked:
            out.require(Exclusion.DEAL, bitmap.from_mask(np.arange(self.size) % asked == 0))

    def fold(self, conditions: Conditions) -> Words:
        return conditions.intersection() if conditions.rows else bitmap.ones(self.size)


def test_a_row_is_worked_out_once() -> None:
    group = Multiples(200)
    for _ in range(3):
        assert bitmap.positions(group.row(50)).tolist() == [0, 50, 100, 150]
        assert bitmap.positions(group.row(0)).tolist() == list(range(200))
    assert group.asked == [50, 0]


def test_spellings_share_the_row_of_their_key() -> None:
    class Halves(Multiples):
        def key(self, asked: int) -> int:
            return asked // 2

    group = Halves(200)
    assert group.row(50) is group.row(51)
    assert group.asked == [50]


def test_what_rows_take_is_bounded() -> None:
    group = Multiples(1_000_000)  # 125 kB a row
    for asked in range(1, 101):
        group.row(asked)
        group.row(asked)
    assert group.asked == list(range(1, 101))
    kept = 0
    for asked in range(100, 0, -1):
        before = len(group.asked)
        group.row(asked)
        if len(group.asked) > before:
            break
        kept += 1
    assert 1 <= kept <= 32


def test_short_rows_and_spellings_are_bounded_in_number() -> None:
    group = Multiples(10)
    for asked in range(1, 20_001):
        group.row(asked)
    assert group.asked == list(range(1, 20_001))
    group.row(1)
    assert group.asked[-1] == 1


def test_a_long_spelling_is_not_kept() -> None:
    class Wordy(Multiples):
        keys = 0

        def spell(self, asked: int) -> str:
            return "x" * 10_000

        def key(self, asked: int) -> int:
            self.keys += 1
            return asked

    group = Wordy(200)
    for _ in range(3):
        group.row(7)
    assert (group.keys, group.asked) == (3, [7])


class Known(Reasons):
    """Counts how often steps are worked out."""

    asked = 0

    def of(self, owner: object, *steps: Step, members: int = 0b111) -> Exclusion:
        def work_out() -> list[Step]:
            self.asked += 1
            return list(steps)

        return self.lost(members, owner, work_out)


COUNTRY, DEVICE, DEAL = (Exclusion.COUNTRY, 0b011), (Exclusion.DEVICE, 0b101), (Exclusion.DEAL, 0b110)


def test_the_reason_is_that_of_the_step_that_leaves_none() -> None:
    known, owner = Reasons(8), object()
    assert known.lost(0b111, owner, lambda: [COUNTRY, DEVICE, DEAL]) is Exclusion.DEAL
    assert known.lost(0b010, owner, list) is Exclusion.DEVICE
    assert known.lost(0b100, owner, list) is Exclusion.COUNTRY


def test_steps_that_leave_members_are_a_fault() -> None:
    with pytest.raises(AssertionError):
        Reasons(8).lost(0b111, object(), lambda: [COUNTRY, DEVICE])


def test_steps_are_worked_out_once_an_owner_and_are_bounded() -> None:
    known, owners = Known(1_000_000), [object() for _ in range(10)]
    for owner in owners:
        for _ in range(2):
            assert known.of(owner, COUNTRY, DEVICE, DEAL) is Exclusion.DEAL
    assert known.asked == 10
    kept = 0
    for owner in reversed(owners):
        before = known.asked
        known.of(owner, COUNTRY, DEVICE, DEAL)
        if known.asked > before:
            break
        kept += 1
    assert 1 <= kept <= 2


def test_what_spellings_take_is_bounded() -> None:
    """Each may have a thousand characters, and there may be thousands."""

    class Wordy(Multiples):
        def spell(self, asked: int) -> str:
            return f"{asked:01000}"

        def key(self, asked: int) -> int:
            return 1

    group = Wordy(200)
    most = 0
    for asked in range(2_000):
        group.row(asked)
        most = max(most, sum(map(len, group._spelled)))
    assert 0.9 * SPELLINGS_CHARS_MAX < most <= SPELLINGS_CHARS_MAX
