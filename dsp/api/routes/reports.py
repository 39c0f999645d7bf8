"""/v1/reports: what was spent and what came of it, from the book."""

from datetime import date
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dsp.api.context import Served, Viewer, known_parameters
from dsp.api.openapi import content, problems, ref
from dsp.api.spend import EPOCH, Dimension, SpendReport, SpendRow, sum_spend
from dsp.events.topics import Topic
from dsp.kernel.errors import Fault, UnavailableError, ValidationError
from dsp.store.book import BookRepository, DayResult
from dsp.store.catalog import ID_MAX

router = APIRouter(prefix="/v1/reports", tags=["reports"])
#: The consumer that writes the book, by the name it keeps its position under.
_LEDGER = "ledger"
_Id = Annotated[int | None, Query(ge=1, le=ID_MAX)]


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
    dimension: Annotated[list[Dimension] | None, Query(description="May be repeated; left out: all.")] = None,
    first: Annotated[date | None, Query(alias="from", description="First day, such as 2026-01-31.")] = None,
    last: Annotated[date | None, Query(alias="to", description="Last day, inclusive.")] = None,
    advertiser_id: _Id = None,
    campaign_id: _Id = None,
    line_item_id: _Id = None,
) -> Response:
    """Sum what was billed and what came of it, straight from the book: the numbers equal the ledger's."""
    known_parameters(request, {"dimension", "from", "to", "advertiser_id", "campaign_id", "line_item_id"})
    if first is not None and last is not None and last < first:
        raise ValidationError([Fault("to", "must not be before from")])

    def read() -> tuple[list[DayResult], dict[int, int]]:
        with served.reads() as session:
            book = BookRepository(session)
            days = book.days(
                line_item_ids=None if line_item_id is None else [line_item_id],
                campaign_ids=None if campaign_id is None else [campaign_id],
                day_min=None if first is None else (first - EPOCH).days,
                day_max=None if last is None else (last - EPOCH).days,
            )
            return days, book.position(Topic.NOTICES, _LEDGER)

    days, position = await run_in_threadpool(read)
    if advertiser_id is not None:
        days = [day for day in days if day.advertiser_id == advertiser_id]
    try:
        pending = await served.log.lag(Topic.NOTICES, position)
    except UnavailableError:  # the book can be reported without it
        pending = None
    report = SpendReport(
        currency=served.platform.currency,
        as_of_ms=served.clock.now_ms(),
        notices_pending=pending,
        total=next(iter(sum_spend(days, ())), SpendRow()),
        rows=sum_spend(days, tuple(dimension) if dimension is not None else tuple(Dimension)),
    )
    return Response(msgspec.json.encode(report), media_type="application/json")
