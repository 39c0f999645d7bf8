"""/v1/reports: what was spent and what came of it, from the book."""

import re
from datetime import date
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dsp.api.context import Served, Viewer, known_parameters
from dsp.api.openapi import content, problems, ref
from dsp.api.spend import EPOCH, SpendDimension, SpendReport, SpendRow, spend_row, total
from dsp.events.topics import Topic
from dsp.kernel.errors import Fault, UnavailableError, ValidationError
from dsp.store.book import BookRepository
from dsp.store.catalog import ID_MAX
from dsp.store.results import sum_days

router = APIRouter(prefix="/v1/reports", tags=["reports"])
#: The consumer that writes the book, by the name it keeps its position under.
_LEDGER = "ledger"
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
    responses={200: {"content": content(ref("SpendReport"))}, **problems()},
)
async def spend(
    request: Request,
    served: Served,
    _key: Viewer,
    dimension: Annotated[list[SpendDimension] | None, Query(description="May be repeated; left out: all.")] = None,
    first: _FirstDay = None,
    last: _LastDay = None,
    advertiser_id: _Ids = None,
    campaign_id: _Ids = None,
    line_item_id: _Ids = None,
) -> Response:
    """Sum what was billed and what came of it, straight from the book: the numbers equal the ledger's.

    Without days it is of all that the book holds. A report of more rows than the platform gives in one answer is
    refused: ask for fewer dimensions, days or line items.
    """
    owners = {"advertiser_id": advertiser_id, "campaign_id": campaign_id, "line_item_id": line_item_id}
    known_parameters(request, {"from", "to"}, repeatable={"dimension", *owners})
    days = _days(first, last)
    by = [one.column for one in dict.fromkeys(dimension or SpendDimension)]
    rows_max = served.config.report_rows_max

    def read() -> tuple[list[SpendRow], dict[int, int]]:
        with served.reads() as session:
            wanted = {name: ids for name, ids in owners.items() if ids is not None}
            found = sum_days(session, by, wanted, days, rows_max + 1)
            if len(found) > rows_max:
                message = f"would give more than {rows_max} rows: ask for fewer dimensions, days or line items"
                raise ValidationError([Fault("dimension", message)])
            return [spend_row(one) for one in found], BookRepository(session).position(Topic.NOTICES, _LEDGER)

    rows, position = await run_in_threadpool(read)
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
    body = await run_in_threadpool(msgspec.json.encode, report)
    return Response(body, media_type="application/json")


def _days(first: str | None, last: str | None) -> tuple[int | None, int | None]:
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
