"""/v1/reports: what was spent and what came of it, from the book."""

import re
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dsp.api.context import Client, Served, Services, known_parameters
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems, ref
from dsp.api.sheet import MEDIA_TYPE as CSV
from dsp.api.sheet import NAMED, ReportFormat, to_csv
from dsp.api.spend import DEFAULT_DIMENSIONS, EPOCH, SpendDimension, SpendReport, SpendRow, spend_row, total
from dsp.catalog.kinds import Kind
from dsp.events.topics import Topic
from dsp.kernel.errors import Fault, UnavailableError, ValidationError
from dsp.store.book import BookRepository
from dsp.store.catalog import ID_MAX, names
from dsp.store.results import Days, sum_results

router = APIRouter(prefix="/v1/reports", tags=["reports"])
_IDS_MAX = 500
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_Ids = Annotated[
    list[Annotated[int, Query(ge=1, le=ID_MAX)]] | None,
    Query(max_length=_IDS_MAX, description="Only what belongs to it; may be repeated."),
]
_DATE = {"format": "date"}
_FirstDay = Annotated[
    str | None, Query(alias="from", json_schema_extra=_DATE, description="First day, such as 2026-01-31.")
]
_LastDay = Annotated[str | None, Query(alias="to", json_schema_extra=_DATE, description="Last day, inclusive.")]


@router.get(
    "/spend",
    operation_id="report_spend",
    summary="Report spend and results",
    responses={
        200: {"content": content(ref("SpendReport")) | content({"type": "string"}, CSV)},
        **problems(),
    },
)
async def spend(
    request: Request,
    served: Served,
    key: Client,
    dimension: Annotated[
        list[SpendDimension] | None,
        Query(description="May be repeated; left out: date, advertiser, campaign and line_item."),
    ] = None,
    first: _FirstDay = None,
    last: _LastDay = None,
    advertiser_id: _Ids = None,
    campaign_id: _Ids = None,
    line_item_id: _Ids = None,
    creative_id: _Ids = None,
    format: Annotated[ReportFormat, Query(description="As CSV, it has names and units instead of micros.")] = (
        ReportFormat.JSON
    ),
) -> Response:
    """Sum what was billed and what came of it, straight from the book: the numbers equal the ledger's.

    Without days it is of all that the book holds. By whatever dimensions, the sum of the same days and owners is the
    same. A report of more rows than the platform gives in one answer is refused: ask for fewer dimensions, days or
    line items.
    """
    owners = {
        "advertiser_id": advertiser_id,
        "campaign_id": campaign_id,
        "line_item_id": line_item_id,
        "creative_id": creative_id,
    }
    known_parameters(request, {"from", "to", "format"}, repeatable={"dimension", *owners})
    days = _days(first, last)
    by = list(dict.fromkeys(dimension or DEFAULT_DIMENSIONS))
    wanted = {name: ids for name, ids in owners.items() if ids is not None}
    if key.advertiser_id is not None:  # what is others' is not there for it
        asked = wanted.get("advertiser_id", [key.advertiser_id])
        wanted["advertiser_id"] = [one for one in asked if one == key.advertiser_id]
    rows, position, names = await run_in_threadpool(_read, served, by, wanted, days, format)
    try:
        pending = await served.log.lag(Topic.NOTICES, position)
    except UnavailableError:  # the book can be reported without it
        pending = None
    report = SpendReport(
        currency=served.platform.currency,
        as_of_ms=served.clock.now_ms(),
        notices_pending=pending,
        total=total(rows),
        rows=rows,
    )
    if format is ReportFormat.CSV:
        headers = {"Content-Disposition": 'attachment; filename="spend.csv"'}
        return Response(await run_in_threadpool(to_csv, report, by, names), headers=headers, media_type=CSV)
    return await run_in_threadpool(JsonResponse, report)


def _read(
    served: Services,
    by: list[SpendDimension],
    owners: dict[str, list[int]],
    days: Days,
    format: ReportFormat,
) -> tuple[list[SpendRow], dict[int, int], dict[Kind, dict[int, str]]]:
    """Return the rows, how far the book has read the notices, and the names that a sheet shows."""
    rows_max = served.config.report_rows_max
    with served.reads() as session:
        found = sum_results(session, [one.column for one in by], owners, days, rows_max + 1)
        if len(found) > rows_max:
            message = f"would give more than {rows_max} rows: ask for fewer dimensions, days or line items"
            raise ValidationError([Fault("dimension", message)])
        rows = [spend_row(one) for one in found]
        named = {one: {getattr(row, one.field) for row in rows} - {None} for one in by if one in NAMED}
        shown = named if format is ReportFormat.CSV else {}
        names_ = {NAMED[one]: names(session, NAMED[one], ids) for one, ids in shown.items()}
        return rows, BookRepository(session).position(), names_


def _days(first: str | None, last: str | None) -> Days:
    """Return the days as the book counts them."""
    faults: list[Fault] = []
    days = _day("from", first, faults), _day("to", last, faults)
    if days[0] is not None and days[1] is not None and days[1] < days[0]:
        faults.append(Fault("to", "must not be before from"))
    if faults:
        raise ValidationError(faults)
    return days


def _day(name: str, value: str | None, faults: list[Fault]) -> int | None:
    if value is None:
        return None
    try:
        if _DAY.fullmatch(value):
            return (date.fromisoformat(value) - EPOCH).days
    except ValueError:  # there is no such day
        pass
    faults.append(Fault(name, "must be a day such as 2026-01-31"))
    return None
