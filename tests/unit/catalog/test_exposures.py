"""Packed impressions do what a plain list of them does."""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.catalog.exposures import (
    ID_MAX,
    ROW_BYTES,
    after,
    counted,
    digest,
    followed,
    latest_ms,
    pack,
    row_of,
    seen,
    shown,
)
from dsp.catalog.user import Exposure

ids = st.integers(0, ID_MAX)
exposures = st.builds(
    Exposure, st.text(max_size=40) | st.sampled_from(["a", "b", "c"]), st.integers(0, 50), ids, ids, ids
)


def plain(given: Sequence[Exposure]) -> list[Exposure]:
    """Return each bid's earliest, oldest first; of equal age the one counted last comes last."""
    found: list[Exposure] = []
    for one in given:
        known = next((other for other in found if other.bid_id == one.bid_id), None)
        if known is not None and known.at_ms <= one.at_ms:
            continue
        found = sorted([other for other in found if other is not known] + [one], key=lambda other: other.at_ms)
    return found


def told(given: Sequence[Exposure]) -> list[tuple[int, int, int, int]]:
    return [(one.at_ms, one.advertiser_id, one.campaign_id, one.line_item_id) for one in given]


@given(st.lists(exposures, max_size=12), st.integers(-1, 51))
def test_each_bid_once_at_its_earliest_oldest_first(given: list[Exposure], since_ms: int) -> None:
    rows, expected = pack(given), plain(given)
    assert [*seen(rows)] == told(expected)
    assert [*shown(rows)] == [(at_ms, campaign_id) for at_ms, _, campaign_id, _ in told(expected)]
    assert [rows[place : place + 8] for place in range(0, len(rows), ROW_BYTES)] == [
        digest(one.bid_id) for one in expected
    ]
    assert [*seen(after(rows, since_ms))] == told([one for one in expected if one.at_ms > since_ms])
    if given:
        assert latest_ms(rows) == expected[-1].at_ms
    for one in given:
        assert (counted(rows, one) is rows) is any(one.bid_id == known.bid_id for known in expected)


@given(st.lists(exposures, max_size=6), st.lists(exposures, max_size=6, unique_by=lambda one: one.bid_id))
def test_what_follows_is_what_is_not_there(known: list[Exposure], others: list[Exposure]) -> None:
    rows, bids = pack(known), {one.bid_id for one in known}
    fresh = [one for one in others if one.bid_id not in bids]
    found = followed(rows, map(row_of, others))
    assert [*seen(found)] == [*seen(rows), *told(fresh)]
    assert fresh or found is rows


def test_a_bid_is_not_found_in_other_fields() -> None:
    """The bytes of a bid's hash may stand where a time or an id is, or across two rows."""
    bid = digest("b")
    (at_ms,) = struct.unpack("<q", bid)
    rows = pack([Exposure("a", at_ms, 1, 2, 3), Exposure("c", at_ms + 1, 1, 2, 3)])
    assert rows.count(bid) == 1
    assert (
        len(counted(rows, Exposure("b", at_ms, 1, 2, 3)))
        == len(followed(rows, [row_of(Exposure("b", 0, 1, 2, 3))]))
        == 84
    )
    half = pack([Exposure("a", 1, *struct.unpack("<II", bid), 3)])
    assert bid in half
    assert len(counted(half, Exposure("b", 5, 1, 2, 3))) == 2 * ROW_BYTES


@pytest.mark.parametrize("wrong", [-1, ID_MAX + 1])
def test_an_id_that_does_not_fit_is_refused(wrong: int) -> None:
    with pytest.raises(struct.error):
        pack([Exposure("b", 1, 1, 2, wrong)])
