"""Compiling a catalogue, and publishing it."""

from random import Random

import msgspec
import numpy as np
import pytest

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, ConversionRule, Creative, LineItem, MediaFormat
from dsp.catalog.exposures import ID_MAX
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight, FrequencyCap, Goal, GoalKind
from dsp.kernel.money import PRICE_MICROS_CPM_MAX
from dsp.snapshot.build import build
from dsp.snapshot.codec import decode, encode
from dsp.targeting import bitmap

DAY_MS = 86_400_000


def line_item(number: int, campaign_id: int, **fields: object) -> LineItem:
    given = {
        "goal": Goal(kind=GoalKind.CPC, target_micros=500_000), "flight": Flight(start_ms=5, end_ms=90),
        "status": Status.ACTIVE, **fields,
    }  # fmt: skip
    return LineItem(id=number, name=f"line item {number}", campaign_id=campaign_id, **given)  # type: ignore[arg-type]


def creative(number: int, line_item_id: int) -> Creative:
    return Creative(
        id=number, name="creative", line_item_id=line_item_id, status=Status.ACTIVE, format=MediaFormat.BANNER,
        landing_url="https://brand.example/", markup="<b>", width=300, height=250,
    )  # fmt: skip


CATALOGUE = Catalogue(
    advertisers=(
        Advertiser(id=1, name="a", domain="a.example", timezone="Pacific/Kiritimati", status=Status.ACTIVE),
        Advertiser(id=2, name="b", domain="b.example", timezone="Pacific/Pago_Pago", status=Status.ACTIVE),
        Advertiser(id=3, name="c", domain="c.example", timezone="Nowhere/At_All", status=Status.ACTIVE),
    ),
    campaigns=(
        Campaign(id=10, name="x", advertiser_id=1, flight=Flight(start_ms=0, end_ms=50), status=Status.ACTIVE),
        Campaign(id=20, name="y", advertiser_id=2, flight=Flight(start_ms=9), status=Status.ACTIVE,
                 frequency_caps=(FrequencyCap(impressions=1, window_seconds=1),)),
        Campaign(id=30, name="z", advertiser_id=3, flight=Flight(start_ms=0), status=Status.ACTIVE),
    ),
    line_items=(
        line_item(7, 20, bid_min_micros_cpm=3, bid_max_micros_cpm=800, goal=Goal(kind=GoalKind.CPM, target_micros=1)),
        line_item(5, 10, flight=Flight(start_ms=0)),
        line_item(6, 30),
        line_item(8, 99),
    ),
    creatives=(creative(3, 7), creative(1, 7), creative(2, 5), creative(4, 8)),
)  # fmt: skip


def test_rows_and_columns() -> None:
    snapshot = build(CATALOGUE, "v1", 123)
    assert (snapshot.version, snapshot.built_at_ms) == ("v1", 123)
    assert [item.id for item in snapshot.line_items] == snapshot.line_item_ids.tolist() == [5, 7]
    assert [snapshot.row_of(number) for number in (4, 5, 6, 7, 8)] == [None, 0, None, 1, None]
    assert [campaign.id for campaign in snapshot.campaigns] == snapshot.campaign_id.tolist() == [10, 20]
    assert [advertiser.id for advertiser in snapshot.advertisers] == snapshot.advertiser_id.tolist() == [1, 2]
    assert [one.id for one in snapshot.creatives] == snapshot.creative_ids.tolist() == [2, 1, 3]
    assert snapshot.creative_line_items.tolist() == [0, 1, 1]
    assert snapshot.creative_start.tolist() == [0, 1, 3]
    # A flight is the line item's and its campaign's together: the first ends at 50, the second is from 9 to 90.
    running = [bitmap.positions(snapshot.index.calendar.in_flight(at_ms)).tolist() for at_ms in (8, 9, 49, 50, 89, 90)]
    assert running == [[0], [0, 1], [0, 1], [1], [1], []]
    assert snapshot.bid_min_micros_cpm.tolist() == [0, 3]
    assert snapshot.bid_max_micros_cpm.tolist() == [PRICE_MICROS_CPM_MAX, 800]
    assert snapshot.terms_micros.tolist() == [[0, 500_000, 0, 0, PRICE_MICROS_CPM_MAX], [1, 0, 0, 3, 800]]
    assert snapshot.ranking.by(np.ones(2)).score[1] == 3  # never below the lowest bid
    assert set(snapshot.caps.campaigns) == {20}


def test_a_target_on_the_return_is_one_on_the_cost_of_a_conversion() -> None:
    rules = tuple(
        ConversionRule(id=number, name="r", advertiser_id=owner, value_micros=value)
        for number, (owner, value) in enumerate([(1, 20_000_000), (1, 40_000_000), (1, None), (2, None)])
    )
    goal = Goal(kind=GoalKind.ROAS, target_micros=4_000_000)
    items = (line_item(5, 10, goal=goal), line_item(7, 20, goal=goal), line_item(9, 20))
    snapshot = build(msgspec.structs.replace(CATALOGUE, line_items=items, conversion_rules=rules), "v1", 0)
    assert snapshot.target_micros.tolist() == [7_500_000, 0, 500_000]
    scores = snapshot.ranking.by(np.ones(3)).score
    assert scores.tolist()[:2] == [pytest.approx(7_500_000 * 1_000 * 0.002 * 0.02), 0.0]


def test_line_items_without_parents_are_orphans() -> None:
    """A line item whose campaign is archived, or whose time zone nobody knows, must not stop the others."""
    assert build(CATALOGUE, "v1", 0).orphan_ids == (6, 8)


def test_line_items_whose_impressions_nobody_can_count_are_orphans() -> None:
    items = (line_item(ID_MAX, 10), line_item(ID_MAX + 1, 10))
    snapshot = build(msgspec.structs.replace(CATALOGUE, line_items=items), "v1", 0)
    assert ([item.id for item in snapshot.line_items], snapshot.orphan_ids) == ([ID_MAX], (ID_MAX + 1,))


def test_a_line_item_whose_unit_may_cost_more_than_a_number_holds_is_an_orphan() -> None:
    rules = (ConversionRule(id=1, name="r", advertiser_id=1, value_micros=10**16),)
    items = tuple(
        line_item(number, 10, goal=Goal(kind=GoalKind.ROAS, target_micros=target))
        for number, target in ((1, 1), (2, 10_000))
    )
    snapshot = build(msgspec.structs.replace(CATALOGUE, line_items=items, conversion_rules=rules), "v1", 0)
    assert ([item.id for item in snapshot.line_items], snapshot.orphan_ids) == ([2], (1,))


def test_days_are_the_advertiser_s() -> None:
    snapshot = build(CATALOGUE, "v1", 0)
    assert snapshot.days(20_000 * DAY_MS).tolist() == [20_000, 19_999]
    assert snapshot.days(20_000 * DAY_MS + 10 * 3_600_000).tolist() == [20_001, 19_999]
    assert snapshot.days(20_000 * DAY_MS + 11 * 3_600_000).tolist() == [20_001, 20_000]


def test_order_does_not_matter() -> None:
    random = Random(1)
    shuffled = Catalogue(
        **{name: tuple(random.sample(getattr(CATALOGUE, name), len(getattr(CATALOGUE, name))))
           for name in CATALOGUE.__struct_fields__}
    )  # fmt: skip
    first, second = build(CATALOGUE, "v1", 0), build(shuffled, "v1", 0)
    assert first.line_items == second.line_items
    assert first.creatives == second.creatives
    assert (first.creative_lots == second.creative_lots).all()


def test_published_form_round_trips() -> None:
    snapshot = decode(encode(CATALOGUE, "v9", 77))
    fresh = build(CATALOGUE, "v9", 77)
    assert (snapshot.version, snapshot.built_at_ms) == ("v9", 77)
    assert snapshot.line_items == fresh.line_items
    assert snapshot.creatives == fresh.creatives
    np.testing.assert_array_equal(snapshot.target_micros, fresh.target_micros)
    assert encode(CATALOGUE, "v9", 77) == encode(CATALOGUE, "v9", 77)


def test_published_form_is_in_chunks() -> None:
    """Nothing that is decoded at once is long: bids wait for it."""
    items = tuple(line_item(number, 10) for number in range(1, 1_001))
    catalogue = msgspec.structs.replace(CATALOGUE, line_items=items)
    data = encode(catalogue, "v1", 0)
    chunks = [msgspec.msgpack.decode(chunk) for chunk in msgspec.msgpack.decode(data)["chunks"]]
    assert max(len(entities) for chunk in chunks for entities in chunk.values()) < 300
    assert sum(len(chunk["line_items"]) for chunk in chunks) == 1_000
    assert decode(data).line_items == items


def test_an_earlier_version_s_form_is_read() -> None:
    """A bidder may find what a snapshot worker of the version before has left."""
    blob = {"type": "snapshot.1", "version": "v1", "built_at_ms": 5, "catalogue": CATALOGUE}
    snapshot = decode(msgspec.msgpack.encode(blob))
    assert (snapshot.version, snapshot.built_at_ms) == ("v1", 5)
    assert snapshot.creatives == build(CATALOGUE, "v1", 5).creatives


def test_a_chunk_that_holds_no_entities_is_refused() -> None:
    blob = {"type": "snapshot.2", "version": "v1", "built_at_ms": 5, "chunks": [b"\xc1"]}
    with pytest.raises(msgspec.DecodeError):
        decode(msgspec.msgpack.encode(blob))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"{}", encode(CATALOGUE, "v", 1)[:-9], msgspec.msgpack.encode({"type": "x"})]
)
def test_bytes_that_are_no_snapshot(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_an_empty_catalogue_compiles() -> None:
    snapshot = build(Catalogue(), "v0", 0)
    assert snapshot.line_items == ()
    assert snapshot.days(0).shape == (0,)
