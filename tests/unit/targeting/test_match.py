"""Rows over creatives know whose the creatives are, and what of an impression lost the last of them."""

import msgspec
import numpy as np
import pytest

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.opportunity import Opportunity
from dsp.targeting import bitmap
from dsp.targeting.creatives import Owners
from dsp.targeting.match import Matcher
from tests.unit.funnel.test_cases import impression


def creative(number: int, **fields: object) -> Creative:
    plain = {"width": 300, "height": 250, "format": "banner", "landing_url": "https://brand.example/", "markup": "<b>"}
    whole = {"id": number, "name": "c", "status": "active", "line_item_id": 1, **plain, **fields}
    return msgspec.convert(whole, Creative)


@pytest.mark.parametrize("line_items", [1, 64, 65, 300])
@pytest.mark.parametrize("creatives", [0, 1, 64, 500])
def test_owners_are_those_with_at_least_one(line_items: int, creatives: int) -> None:
    random = np.random.default_rng(line_items + creatives)
    rows = np.sort(random.integers(0, line_items, creatives))
    owners = Owners(rows.tolist(), line_items)
    for share in (0.0, 0.02, 0.5, 1.0):
        held = random.random(creatives) < share
        found = bitmap.from_bits(owners.of(bitmap.from_mask(held)), line_items)
        assert bitmap.positions(found).tolist() == sorted(set(rows[held].tolist()))


def test_no_line_items_and_no_creatives() -> None:
    assert Owners([], 0).of(bitmap.zeros(0)) == 0
    assert Owners([], 5).of(bitmap.zeros(0)) == 0


#: Line item 0 has creatives 0 and 1, line item 2 has creative 2; line item 1 has none.
CREATIVES = [creative(0, categories=["IAB7"]), creative(1, attributes=[3]), creative(2, width=728, height=90)]


def matcher() -> Matcher:
    categories = [frozenset(one.categories) for one in CREATIVES]
    return Matcher(CREATIVES, categories, [True] * len(CREATIVES), Owners([0, 0, 2], 3))


@pytest.mark.parametrize(
    ("asked", "slot", "publisher"),
    [
        (impression({}), ([0, 1], [0]), ([0, 1, 2], [0, 2])),
        (impression({"sizes": []}), ([0, 1, 2], [0, 2]), ([0, 1, 2], [0, 2])),
        (impression({"sizes": [[728, 90]]}), ([2], [2]), ([0, 1, 2], [0, 2])),
        (impression({"blocked_attributes": [3]}), ([0], [0]), ([0, 1, 2], [0, 2])),
        (impression({"blocked_categories": ["IAB7"]}), ([0, 1], [0]), ([1, 2], [0, 2])),
        (impression({"formats": [MediaFormat.VIDEO.value]}), ([], []), ([0, 1, 2], [0, 2])),
    ],
)
def test_rows_hold_creatives_and_whose_they_are(
    asked: Opportunity, slot: tuple[list[int], list[int]], publisher: tuple[list[int], list[int]]
) -> None:
    for found, (creatives, line_items) in zip(matcher().rows(asked), (slot, publisher), strict=True):
        assert bitmap.positions(found.creatives).tolist() == creatives
        assert bitmap.positions(bitmap.from_bits(found.line_items, 3)).tolist() == line_items


def test_the_reason_is_that_of_the_last_creative() -> None:
    compiled = matcher()
    asked = impression({"blocked_categories": ["IAB7"], "blocked_attributes": [3]})
    rows = compiled.rows(asked)
    for _ in range(2):
        assert compiled.lost(asked, rows, 0b101) is Exclusion.ATTRIBUTE_BLOCKED
        assert compiled.lost(asked, rows, 0b100) is Exclusion.SIZE
