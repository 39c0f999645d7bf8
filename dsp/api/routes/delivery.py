"""/v1/line-items/{id}/delivery: why a line item does or does not deliver."""

from collections import deque

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from dsp.api.context import Client, Served, Services, known_parameters
from dsp.api.delivery import Delivery, DeliveryReport
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems, ref
from dsp.api.pages import entity_id
from dsp.catalog.kinds import Kind
from dsp.events.schema import SampledRequest, decode
from dsp.events.topics import Topic
from dsp.kernel.errors import NotFoundError, UnavailableError
from dsp.pacing.controller import CONTROLS_BLOB
from dsp.pacing.controller import decode as decode_controls
from dsp.store.chain import load_chain
from dsp.store.keys import ApiKey

router = APIRouter(prefix="/v1/line-items", tags=["line items"])
#: Requests are read so many at a time, and the newest of them kept up to so many bytes: there are some of 256 kB.
_READ, _BYTES_MAX = 50, 16 << 20


@router.get(
    "/{id}/delivery",
    operation_id="explain_delivery",
    summary="Explain the delivery of the line item",
    responses={200: {"content": content(ref("DeliveryReport"))}, **problems(404)},
)
async def delivery(id: str, request: Request, served: Served, key: Client) -> Response:
    """Tell what holds the line item back, how its budgets and its pacing stand, and what it may bid on.

    `supply` runs the funnel on the newest of the requests that bidders keep; `GET /v1/explain/{auction_id}` tells of
    one of them.
    """
    known_parameters(request, frozenset())
    number = entity_id(Kind.LINE_ITEM, id)
    try:
        requests = await _newest(served)
        found = await served.blobs.get(CONTROLS_BLOB)
    except UnavailableError:  # the rest can be told without them
        requests, found = None, None
    report = await run_in_threadpool(_report, served, key, number, requests, None if found is None else found[1])
    return JsonResponse(report)


def _report(
    served: Services, key: ApiKey, line_item_id: int, requests: list[SampledRequest] | None, controls: bytes | None
) -> DeliveryReport:
    with served.reads() as session:
        chain = load_chain(session, line_item_id)
        if key.advertiser_id not in (None, chain.advertisers[0].id):
            raise NotFoundError(f"there is no line item {line_item_id}")
        one = Delivery(chain, served.clock.now_ms())
        budgets = one.budgets(session)
    supply = None if requests is None else one.supply(requests, served.explainer, served.platform)
    try:
        known = {} if controls is None else decode_controls(controls).line_items
    except msgspec.DecodeError:  # of another version of the software
        known = {}
    return one.report(budgets, known.get(line_item_id), supply)


async def _newest(served: Services) -> list[SampledRequest]:
    """Return the newest requests kept, the newest first: a bounded number, of bounded size."""
    count = served.config.delivery_requests
    position = await served.log.tail(Topic.REQUESTS, count)
    found, size, read = deque[SampledRequest](), 0, 0
    while True:
        batch = await served.log.read(Topic.REQUESTS, position, min(count - read, _READ))
        for record in batch.records:
            if (one := _sampled(record.value)) is not None:
                found.appendleft(one)
                size += len(one.body)
        while size > _BYTES_MAX:
            size -= len(found.pop().body)
        position, read = batch.position, read + len(batch.records)
        if batch.end or read >= count:
            return list(found)


def _sampled(value: bytes) -> SampledRequest | None:
    try:
        event = decode(value)
    except msgspec.DecodeError:  # the traffic worker parks it
        return None
    return event if isinstance(event, SampledRequest) else None
