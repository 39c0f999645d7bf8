"""Why line items do or do not deliver: /v1/line-items/{id}/delivery, and a campaign's /v1/campaigns/{id}/delivery."""

from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dsp.api.context import Client, Served, Services, known_parameters
from dsp.api.delivery import Delivery, DeliveryReport
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems, ref
from dsp.api.pages import PAGE_SIZE, PageSize, PageToken, decode_token, entity_id, page, page_size
from dsp.catalog.entities import Campaign
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.events.schema import SampledRequest, decode_as
from dsp.events.topics import Topic
from dsp.kernel.errors import NotFoundError, UnavailableError
from dsp.pacing.controller import CONTROLS_BLOB, Control
from dsp.pacing.controller import decode as decode_controls
from dsp.store.catalog import CatalogReader
from dsp.store.chain import load_chain
from dsp.store.keys import ApiKey

router = APIRouter(prefix="/v1")
#: Requests are read so many at a time, and the newest of them kept up to so many bytes: there are some of 256 kB.
_READ, _BYTES_MAX = 50, 16 << 20


@router.get(
    "/line-items/{id}/delivery",
    operation_id="explain_delivery",
    summary="Explain the delivery of the line item",
    tags=["line items"],
    responses={200: {"content": content(ref("DeliveryReport"))}, **problems(404)},
)
async def delivery(id: str, request: Request, served: Served, key: Client) -> Response:
    """Tell what holds the line item back, how its budgets and its pacing stand, and what it may bid on.

    `supply` runs the funnel on the newest of the requests that bidders keep; `POST /v1/explain` tells of one of them.
    """
    known_parameters(request, frozenset())
    number = entity_id(Kind.LINE_ITEM, id)
    try:
        requests = await _newest(served)
    except UnavailableError:  # the rest can be told without them
        requests = None
    return JsonResponse(await run_in_threadpool(_report, served, key, number, requests, await _controls(served)))


@router.get(
    "/campaigns/{id}/delivery",
    operation_id="explain_campaign_delivery",
    summary="Explain the delivery of the campaign's line items",
    tags=["campaigns"],
    responses={200: {"content": content(ref("DeliveryReportPage"))}, **problems(404)},
)
async def campaign_delivery(
    id: str,
    request: Request,
    served: Served,
    key: Client,
    size: PageSize = PAGE_SIZE,
    token: PageToken = None,
    status: Annotated[Status | None, Query(description="Only line items set to this status.")] = None,
) -> Response:
    """Tell of each line item what holds it back, and how its budgets and its pacing stand: in order of id, 50 at most.

    What it may bid on is told of one line item at a time.
    """
    known_parameters(request, {"page_size", "page_token", "status"})
    number, limit = entity_id(Kind.CAMPAIGN, id), page_size(size, PAGE_SIZE)
    filters = {} if status is None else {"status": status.value}
    scope = f"campaign/{number}/delivery"
    after, controls = decode_token(scope, token), await _controls(served)
    found = await run_in_threadpool(_reports, served, key, number, filters, after, limit + 1, controls)
    return JsonResponse(page(scope, found, limit, attrgetter("line_item_id")))


def _report(
    served: Services,
    key: ApiKey,
    line_item_id: int,
    requests: list[SampledRequest] | None,
    controls: Mapping[int, Control],
) -> DeliveryReport:
    with served.reads() as session:
        chain = load_chain(session, line_item_id)
        if key.advertiser_id not in (None, chain.advertisers[0].id):
            raise NotFoundError(f"there is no line item {line_item_id}")
        one = Delivery(chain, served.clock.now_ms())
        budgets = one.budgets(session)
    supply = None if requests is None else one.supply(requests, served.explainer, served.platform)
    return one.report(budgets, controls.get(line_item_id), supply)


def _reports(
    served: Services,
    key: ApiKey,
    campaign_id: int,
    filters: Mapping[str, Any],
    after: int,
    limit: int,
    controls: Mapping[int, Control],
) -> list[DeliveryReport]:
    found = []
    with served.reads() as session:
        reader = CatalogReader(session)
        campaign = cast(Campaign, reader.get(Kind.CAMPAIGN, campaign_id))
        if key.advertiser_id not in (None, campaign.advertiser_id):
            raise NotFoundError(f"there is no campaign {campaign_id}")
        for line_item in reader.list(Kind.LINE_ITEM, {"campaign_id": campaign_id, **filters}, after, limit):
            one = Delivery(load_chain(session, line_item.id), served.clock.now_ms())
            found.append(one.report(one.budgets(session), controls.get(line_item.id), None))
    return found


async def _controls(served: Services) -> Mapping[int, Control]:
    """Return what pacing made of each line item; nothing where it cannot be read."""
    try:
        found = await served.blobs.get(CONTROLS_BLOB)
        # In a thread: of a large catalogue they are megabytes.
        return {} if found is None else (await run_in_threadpool(decode_controls, found[1])).line_items
    except (UnavailableError, msgspec.DecodeError):  # away, or of another version of the software
        return {}


async def _newest(served: Services) -> list[SampledRequest]:
    """Return the newest requests kept, the newest first: a bounded number, of bounded size."""
    count = served.config.delivery_requests
    position = await served.log.tail(Topic.REQUESTS, count)
    found, size, read = deque[SampledRequest](), 0, 0
    while True:
        batch = await served.log.read(Topic.REQUESTS, position, min(count - read, _READ))
        for record in batch.records:
            if (one := decode_as(SampledRequest, record.value)) is not None:
                found.appendleft(one)
                size += len(one.body)
        while size > _BYTES_MAX:
            size -= len(found.pop().body)
        position, read = batch.position, read + len(batch.records)
        if batch.end or read >= count:
            return list(found)
