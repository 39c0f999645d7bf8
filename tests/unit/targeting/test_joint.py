"""Rows of groups: worked out once a key, and bounded in number and in bytes."""

from dsp.catalog.reasons import Exclusion
from dsp.targeting import bitmap
from dsp.targeting.joint import Group
from dsp.targeting.rows import Conditions


class Multiples(Group[int]):
    """Members that are multiples of the number asked; 0 asks for nothing."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size
        self.asked: list[int] = []

    def spelling(self, asked: int) -> str:
        return f"{asked:05}"

    def key(self, asked: int) -> int:
        return asked

    def require(self, asked: int, out: Conditions) -> None:
        self.asked.append(asked)
        if asked:
            out.require(Exclusion.DEAL, bitmap.from_positions(range(0, self.size, asked), self.size))


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

        def spelling(self, asked: int) -> str:
            return "x" * 10_000

        def key(self, asked: int) -> int:
            self.keys += 1
            return asked

    group = Wordy(200)
    for _ in range(3):
        group.row(7)
    assert (group.keys, group.asked) == (3, [7])
