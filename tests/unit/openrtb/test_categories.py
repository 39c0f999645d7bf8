"""What of which taxonomy is refused and declared."""

from collections.abc import Collection

import pytest

from dsp.openrtb import categories


@pytest.mark.parametrize(
    ("codes", "barred", "allowed", "want"),
    [
        ([], [], [], False),
        ([], ["IAB1"], [], False),
        (["IAB1-2"], ["IAB1"], [], True),
        (["IAB1"], ["IAB1-2"], [], False),
        (["483"], ["483"], [], True),
        (["IAB1-2"], [], ["IAB1"], False),
        (["IAB1", "IAB2"], [], ["IAB1"], True),
        (["IAB1", "483"], [], ["IAB1"], False),
        (["IAB1"], [], ["IAB1-2"], True),
        (["483"], [], ["IAB1"], True),
        ([], [], ["IAB1"], True),
        (["IAB1"], ["IAB1"], ["IAB1"], True),
    ],
)
def test_refused(codes: list[str], barred: Collection[str], allowed: Collection[str], want: bool) -> None:
    assert categories.refused(codes, frozenset(barred), frozenset(allowed)) == want


@pytest.mark.parametrize(
    ("codes", "asked", "want"),
    [
        (("IAB1", "IAB2-3"), 1, (1, ("IAB1", "IAB2-3"))),
        (("IAB1",), 6, (1, ("IAB1",))),
        (("IAB1", "483"), 1, (1, ("IAB1",))),
        (("IAB1", "483"), 0, (1, ("IAB1",))),
        (("IAB1", "483"), 6, (6, ("483",))),
        (("483", "JLBCU7"), 1, (7, ("483", "JLBCU7"))),
        (("483",), 2, (2, ("483",))),
        ((), 6, (1, ())),
    ],
)
def test_declared(codes: tuple[str, ...], asked: int, want: tuple[int, tuple[str, ...]]) -> None:
    assert categories.declared(codes, asked) == want


def test_taxonomies() -> None:
    assert [categories.taxonomy(number) for number in (-1, 0, 1, 2, 3, 7, 500)] == [1, 1, 1, 2, 0, 7, 0]
