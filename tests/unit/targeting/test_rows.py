"""Rows come back as they were kept, dense or sparse, and rare values cost what they hold."""

import numpy as np
import pytest

from dsp.catalog.reasons import Exclusion
from dsp.targeting import bitmap
from dsp.targeting.rows import Conditions, Sparse, compress, expand, holders, union

SIZE = 10_000


@pytest.mark.parametrize("base", [bitmap.zeros(SIZE), bitmap.ones(SIZE)], ids=["zeros", "ones"])
@pytest.mark.parametrize("members", [[], [0], [5, 6, 7_000], list(range(0, SIZE, 3))], ids=len)
def test_kept_rows_come_back(members: list[int], base: bitmap.Words) -> None:
    words = bitmap.from_mask(np.isin(np.arange(SIZE), members))
    before = base.copy()
    kept = compress(words ^ base, base)
    assert isinstance(kept, Sparse) == (len(members) < 20)
    assert (expand(kept) == words ^ base).all()
    assert (base == before).all()


def test_a_dense_row_is_a_copy() -> None:
    many = np.ones((500, 100), dtype=np.uint64)
    assert compress(many[3], bitmap.zeros(6_400)).base is None


def test_union_mixes_kinds() -> None:
    nobody = bitmap.zeros(SIZE)
    places = np.arange(SIZE)
    rare, common = bitmap.from_mask(np.isin(places, [3, 9_999])), bitmap.from_mask(places % 2 == 0)
    both = union([compress(rare, nobody), compress(common, nobody)])
    assert (both == rare | common).all()
    assert (nobody == 0).all()


def test_holders_of_more_values_than_one_chunk() -> None:
    first = [(f"v{number}", number) for number in range(3_000)]
    second = [("v7", 8), ("only here", 9)]
    found = dict(holders(3_000, iter(first), iter(second)))
    assert len(found) == 3_001
    assert [bitmap.positions(row).tolist() for row in found["v7"]] == [[7], [8]]
    assert [bitmap.positions(row).tolist() for row in found["v2999"]] == [[2_999], []]
    assert [bitmap.positions(row).tolist() for row in found["only here"]] == [[], [9]]


def test_conditions_are_told_in_the_order_of_the_funnel() -> None:
    conditions = Conditions()
    row = bitmap.ones(3)
    for reason in (Exclusion.DEAL, Exclusion.COUNTRY, Exclusion.SEGMENT):
        conditions.require(reason, row)
    told = [reason for reason, _ in conditions.in_order()]
    assert told == [Exclusion.COUNTRY, Exclusion.SEGMENT, Exclusion.DEAL]
