"""The spend report: the book's numbers, summed."""

import csv
import io
from dataclasses import replace
from itertools import combinations
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from dsp.api.spend import SpendDimension
from dsp.events.topics import Topic
from dsp.ledger.book import Response, Transaction
from dsp.store.book import BookRepository
from dsp.store.book_tables import BookDayRow
from dsp.stream.port import Entry
from tests.api.conftest import Api, errors
from tests.notices import bids_sent

DAY = 20_000  # 2024-10-04


def _billed(number: int, line_item_id: int, day: int, charged: int, late: int = 0) -> Transaction:
    return Transaction(
        exchange="demo-first", auction_id=f"a{number}", imp_id="1", kind="bill", bid_id=f"b{number}", at_ms=1,
        appended_ms=1, advertiser_id=1 + line_item_id // 10, campaign_id=line_item_id // 2, line_item_id=line_item_id,
        creative_id=10 * line_item_id + number % 2, day=day, hour=24 * day + number % 2, lease_id="1",
        charged_micros=charged, late_micros=late, value_micros=10,
    )  # fmt: skip


def _response(number: int, kind: str, line_item_id: int, day: int, value: int = 0) -> Response:
    return Response(
        bid_id=f"b{number}", kind=kind, conversion_rule_id=0, at_ms=1, advertiser_id=1 + line_item_id // 10,
        campaign_id=line_item_id // 2, line_item_id=line_item_id, creative_id=10 * line_item_id + number % 2,
        exchange="demo-first", day=day, hour=24 * day + number % 2, value_micros=value,
    )  # fmt: skip


@pytest.fixture
async def billed(api: Api) -> Api:
    entries = [
        _billed(1, 2, DAY, 1_000), _billed(2, 2, DAY, 2_000), _billed(3, 3, DAY, 500), _billed(4, 2, DAY + 1, 700),
        _billed(5, 12, DAY, 40, late=2),
        _response(1, "click", 2, DAY), _response(1, "conv", 2, DAY, 8_400), _response(4, "click", 2, DAY + 1),
    ]  # fmt: skip
    with api.services.writes.begin() as session:
        BookRepository(session).apply(entries, {0: 3})
    return api


async def _report(api: Api, query: str = "") -> Any:
    answer = await api.viewer.get(f"/v1/reports/spend{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_all_dimensions(billed: Api) -> None:
    report = await _report(billed)
    assert report["currency"] == "USD"
    assert report["total"] == {
        "date": None, "advertiser_id": None, "campaign_id": None, "line_item_id": None, "creative_id": None,
        "exchange": None, "hour": None, "bids": 0, "win_rate_micros": None, "impressions": 5,
        "spend_micros": 4_240, "late_micros": 2,
        "expected_value_micros": 50, "clicks": 2, "conversions": 1, "conversion_value_micros": 8_400,
        "ctr_micros": 400_000, "cvr_micros": 500_000, "ecpm_micros": 848_000, "cpc_micros": 2_120,
        "cpa_micros": 4_240, "roas_micros": 1_981_132,
    }  # fmt: skip
    keys = [(row["date"], row["line_item_id"], row["spend_micros"]) for row in report["rows"]]
    assert keys == [
        ("2024-10-04", 2, 3_000), ("2024-10-04", 3, 500), ("2024-10-04", 12, 40), ("2024-10-05", 2, 700),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "spend"),
    [
        ("?dimension=campaign", {(1,): 4_200, (6,): 40}),
        ("?dimension=advertiser", {(1,): 4_200, (2,): 40}),
        ("?dimension=date&dimension=campaign&to=2024-10-04", {("2024-10-04", 1): 3_500, ("2024-10-04", 6): 40}),
        ("?dimension=line_item&from=2024-10-05", {(2,): 700}),
        ("?dimension=line_item&campaign_id=1", {(2,): 3_700, (3,): 500}),
        ("?dimension=campaign&line_item_id=3", {(1,): 500}),
        ("?dimension=line_item&advertiser_id=2", {(12,): 40}),
        ("?advertiser_id=99", {}),
        ("?dimension=line_item&line_item_id=2&line_item_id=12", {(2,): 3_700, (12,): 40}),
        ("?dimension=advertiser&campaign_id=1&campaign_id=6", {(1,): 4_200, (2,): 40}),
        ("?dimension=creative&campaign_id=1", {(20,): 2_700, (21,): 1_000, (31,): 500}),
        (
            "?dimension=creative&dimension=date&to=2024-10-04&line_item_id=2",
            {("2024-10-04", 20): 2_000, ("2024-10-04", 21): 1_000},
        ),
        ("?dimension=line_item&creative_id=21&creative_id=121", {(2,): 1_000, (12,): 40}),
        (
            "?dimension=hour&advertiser_id=1",
            {("2024-10-04T00:00Z",): 2_000, ("2024-10-04T01:00Z",): 1_500, ("2024-10-05T00:00Z",): 700},
        ),
        ("?dimension=exchange", {("demo-first",): 4_240}),
    ],
)
async def test_dimensions_and_filters(billed: Api, query: str, spend: dict[tuple[Any, ...], int]) -> None:
    report = await _report(billed, query)
    names = ("date", "advertiser_id", "campaign_id", "line_item_id", "creative_id", "exchange", "hour")
    rows = {tuple(row[name] for name in names if row[name] is not None): row["spend_micros"] for row in report["rows"]}
    assert rows == spend
    assert report["total"]["spend_micros"] == sum(spend.values())


async def test_rows_come_in_the_order_of_the_dimensions(billed: Api) -> None:
    rows = (await _report(billed, "?dimension=campaign&dimension=date"))["rows"]
    keys = [(row["campaign_id"], row["date"]) for row in rows]
    assert keys == [(1, "2024-10-04"), (1, "2024-10-05"), (6, "2024-10-04")]


async def test_every_report_is_the_books_to_the_micro(billed: Api) -> None:
    """Also of what a version entered that did not tell creatives apart, and goes on beside this one for a while."""
    with billed.services.writes.begin() as session:
        old = update(BookDayRow).where(BookDayRow.line_item_id == 3)
        session.execute(old.values(spend_micros=507, impressions=3, clicks=1))
        days = BookRepository(session).days()
    for by in [one for size in range(1, 8) for one in combinations(SpendDimension, size)]:
        report = await _report(billed, "?" + "&".join(f"dimension={one}" for one in by))
        assert report["total"]["spend_micros"] == sum(day.spend_micros for day in days) == 4_247
        for name in ("impressions", "late_micros", "clicks", "conversions", "conversion_value_micros"):
            assert sum(row[name] for row in report["rows"]) == sum(getattr(day, name) for day in days)
        keys = [tuple(row[one.field] for one in by) for row in report["rows"]]
        assert len(set(keys)) == len(keys)
        unknown = [row for row in report["rows"] if None in [row[one.field] for one in by]]
        fine = {SpendDimension.CREATIVE, SpendDimension.EXCHANGE, SpendDimension.HOUR}.intersection(by)
        found = [(row["spend_micros"], row["impressions"], row["clicks"]) for row in unknown]
        assert found == ([(7, 2, 1)] if fine else []), by


async def test_a_report_for_a_spreadsheet_has_names_and_units(api: Api) -> None:
    ids = await api.tree()
    await api.member.patch(
        f"/v1/advertisers/{ids['advertisers']}", json={"name": "=1+1, Söhne"}, headers={"if-match": "*"}
    )
    own = {"advertiser_id": ids["advertisers"], "line_item_id": ids["line-items"], "creative_id": ids["creatives"]}
    bill = msgspec.structs.replace(_billed(1, 2, DAY, 1_000_001), **own)
    click = msgspec.structs.replace(_response(1, "click", 2, DAY), **own)
    bids = bids_sent(1, 3, exchange="demo-first", day=DAY, hour=24 * DAY, campaign_id=1, **own)
    with api.services.writes.begin() as session:
        BookRepository(session).apply([bill, bids, click, _billed(2, 2, DAY, 5)], {0: 3})
    query = "dimension=advertiser&dimension=creative&dimension=exchange&dimension=date&format=csv"
    answer = await api.viewer.get(f"/v1/reports/spend?{query}")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="spend.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    shown = {name: value for name, value in rows[0].items() if value}
    assert shown == {
        "advertiser_id": "1", "advertiser": "'=1+1, Söhne", "creative_id": "1", "creative": "Box",
        "exchange": "demo-first", "date": "2024-10-04", "currency": "USD", "bids": "3", "impressions": "1",
        "clicks": "1", "conversions": "0", "spend": "1.000001", "late": "0.000000", "conversion_value": "0.000000",
        "expected_value": "0.000010", "win_rate": "0.333333", "ctr": "1.000000", "cvr": "0.000000",
        "ecpm": "1000.001000", "cpc": "1.000001", "roas": "0.000000",
    }  # fmt: skip
    assert (rows[1]["creative_id"], rows[1]["creative"], rows[1]["cpc"]) == ("20", "", "")  # loaded from elsewhere
    assert (rows[1]["bids"], rows[1]["win_rate"]) == ("0", "")


async def test_a_report_of_too_many_rows_is_refused(billed: Api, application: FastAPI) -> None:
    bounded = msgspec.structs.replace(billed.services.config, report_rows_max=3)
    application.state.services = replace(billed.services, config=bounded)
    answer = await billed.viewer.get("/v1/reports/spend")
    assert answer.status_code == 422
    assert list(errors(answer)) == ["dimension"]
    assert len((await _report(billed, "?dimension=line_item"))["rows"]) == 3


async def test_results_stand_beside_their_cost(billed: Api) -> None:
    rows = {row["line_item_id"]: row for row in (await _report(billed, "?dimension=line_item"))["rows"]}
    names = (
        "ecpm_micros",
        "clicks",
        "cpc_micros",
        "conversions",
        "cpa_micros",
        "conversion_value_micros",
        "roas_micros",
    )
    assert [rows[2][name] for name in names] == [1_233_333, 2, 1_850, 1, 3_700, 8_400, 2_270_270]
    # Nothing to divide by is no average, and no results are a return of nothing.
    assert [rows[3][name] for name in names] == [500_000, 0, None, 0, None, 0, 0]
    assert {number: row["expected_value_micros"] for number, row in rows.items()} == {2: 30, 3: 10, 12: 10}


async def test_bids_and_their_win_rate_by_every_dimension(billed: Api) -> None:
    """Also of what was never won; and every report has all bids."""
    where = {"exchange": "demo-first", "advertiser_id": 1, "campaign_id": 1, "day": DAY, "hour": 24 * DAY}
    entries = [
        bids_sent(1, 8, line_item_id=2, creative_id=20, **where),
        bids_sent(2, 2, line_item_id=2, creative_id=21, **where | {"hour": 24 * DAY + 1}),
        bids_sent(3, 30, line_item_id=5, creative_id=50, **where | {"exchange": "other"}),
    ]
    with billed.services.writes.begin() as session:
        BookRepository(session).apply(entries, {0: 4})
    expected: dict[str, list[tuple[Any, int, int | None]]] = {
        "date": [("2024-10-04", 40, 100_000), ("2024-10-05", 0, None)],
        "advertiser": [(1, 40, 100_000), (2, 0, None)],
        "campaign": [(1, 40, 100_000), (6, 0, None)],
        "line_item": [(2, 10, 300_000), (3, 0, None), (5, 30, 0), (12, 0, None)],
        "creative": [(20, 8, 250_000), (21, 2, 500_000), (31, 0, None), (50, 30, 0), (121, 0, None)],
        "exchange": [("demo-first", 10, 500_000), ("other", 30, 0)],
        "hour": [
            ("2024-10-04T00:00Z", 38, 26_316), ("2024-10-04T01:00Z", 2, 1_500_000), ("2024-10-05T00:00Z", 0, None),
        ],
    }  # fmt: skip
    for dimension, rows in expected.items():
        report = await _report(billed, f"?dimension={dimension}")
        field = SpendDimension(dimension).field
        assert [(row[field], row["bids"], row["win_rate_micros"]) for row in report["rows"]] == rows
        assert (report["total"]["bids"], report["total"]["win_rate_micros"]) == (40, 125_000)


async def test_a_click_before_its_bill_has_no_cost(api: Api) -> None:
    with api.services.writes.begin() as session:
        BookRepository(session).apply([_response(1, "click", 2, DAY)], {0: 1})
    total = (await _report(api))["total"]
    assert (total["impressions"], total["clicks"], total["cpc_micros"]) == (0, 1, 0)
    assert (total["ecpm_micros"], total["roas_micros"]) == (None, None)


async def test_freshness_is_told(billed: Api) -> None:
    log = billed.services.log
    await log.append(Topic.NOTICES, [Entry("1", b"x") for _ in range(10)])
    read = await log.read(Topic.NOTICES, {}, 4)
    with billed.services.writes.begin() as session:
        BookRepository(session).apply([], read.position)
    assert (await _report(billed))["notices_pending"] == 6


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"), ("to=2024-13-01", "to"), ("from=2024-02-02&to=2024-02-01", "to"),
        ("dimension=mood", "dimension.0"), ("line_item_id=0", "line_item_id.0"), ("campaign_id=x", "campaign_id.0"),
        ("advertiser_id=99999999999999999999", "advertiser_id.0"), ("until=2024-02-01", "until"),
        ("from=2024-02-01&from=2024-02-02", "from"), ("from=1795046400", "from"), ("from=20240201", "from"),
        ("to=2024-02-01T00:00:00", "to"), ("from=2024-W05-1", "from"),
    ],
)  # fmt: skip
async def test_bad_parameters(api: Api, query: str, field: str) -> None:
    answer = await api.viewer.get(f"/v1/reports/spend?{query}")
    assert answer.status_code == 422
    assert list(errors(answer)) == [field]
