"""/v1/explain: why a request got bids from these line items and not from those."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dsp.api.context import Body, Served, Services, Viewer, decode_object, known_parameters
from dsp.api.explain import RequestReport, Seen
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems, ref
from dsp.catalog.validate import START_MS_MAX
from dsp.events.schema import SampledRequest, decode_as
from dsp.events.topics import Topic
from dsp.kernel.errors import Fault, NotFoundError, ValidationError
from dsp.pacing import columns
from dsp.pacing.columns import PACED_BLOB, Paced
from dsp.store.catalog import ID_MAX

router = APIRouter(prefix="/v1/explain", tags=["explain"])
_BATCH_RECORDS = 2_000
_FIELDS = ("exchange", "request", "at_ms", "seen")
#: More impressions than any cap counts.
_SEEN_MAX = 10_000
_SEEN = {
    "type": "object",
    "required": ["line_item_id"],
    "additionalProperties": False,
    "properties": {
        "line_item_id": {"type": "integer", "description": "What was shown; it counts for its campaign as well."},
        "at_ms": {"type": "integer", "description": "When; left out: just before the request."},
    },
}
_Id = Annotated[int | None, Query(ge=1, le=ID_MAX, description="Only line items of it.")]
_REQUEST = {
    "type": "object",
    "required": ["exchange", "request"],
    "additionalProperties": False,
    "properties": {
        "exchange": {"type": "string", "description": "Name of the exchange's profile."},
        "request": {"type": "object", "description": "An OpenRTB 2.5 or 2.6 bid request."},
        "at_ms": {"type": "integer", "description": "When it is to have come; left out: now."},
        "seen": {
            "type": "array",
            "items": _SEEN,
            "maxItems": _SEEN_MAX,
            "description": "Impressions that its user has seen, which frequency caps count.",
        },
    },
}


def _ids(
    request: Request, advertiser_id: _Id = None, campaign_id: _Id = None, line_item_id: _Id = None
) -> dict[str, int]:
    given = {"advertiser_id": advertiser_id, "campaign_id": campaign_id, "line_item_id": line_item_id}
    known_parameters(request, given.keys())
    return {name: one for name, one in given.items() if one is not None}


Ids = Annotated[dict[str, int], Depends(_ids)]


@router.post(
    "",
    operation_id="explain_request",
    summary="Explain a bid request",
    responses={200: {"content": content(ref("RequestReport"))}, **problems(400, 413, 415)},
    openapi_extra={"requestBody": {"required": True, "content": content(_REQUEST)}},
)
async def explain_request(served: Served, _key: Viewer, ids: Ids, body: Body) -> Response:
    """Run the funnel on a request that you give, against the catalogue as it is. Nothing is bid or stored.

    Of a large catalogue, ask for one line item, campaign or advertiser: only that is read then, and told of.
    Frequency caps count the impressions in `seen`, as the user is not looked up; where privacy signals forbid to keep
    anything about the user they count none. Prices, budgets and lots come after the funnel: whether pacing withholds a
    bid and which of several creatives is shown is drawn under a key that only bidders have.
    """
    exchange, bid_request, at_ms, seen = _wanted(decode_object(body), served.clock.now_ms())
    return JsonResponse(await _explain(served, exchange, msgspec.json.encode(bid_request), at_ms, ids, seen))


@router.get(
    "/{auction_id:path}",  # exchanges' ids may be base64, slashes and all
    operation_id="explain_auction",
    summary="Explain a stored bid request",
    responses={200: {"content": content(ref("RequestReport"))}, **problems(404)},
)
async def explain_auction(auction_id: str, served: Served, _key: Viewer, ids: Ids) -> Response:
    """Run the funnel on a request that the bidder received and kept, as of when it came.

    The bidder keeps a sample of requests, chosen by lot, which is looked through as far back as the platform is set to.
    `outcome` is what the bidder answered then; what its user had seen is not kept, so frequency caps take no line item
    here.
    """
    stored = await _find(served, auction_id)
    if stored is None:
        raise NotFoundError(f"no request of auction {auction_id[:64]} is kept")
    report = await _explain(served, stored.exchange, stored.body, stored.at_ms, ids)
    told = {"auction_id": stored.auction_id, "outcome": stored.outcome, "snapshot_version": stored.snapshot_version}
    return JsonResponse(told | msgspec.to_builtins(report))


async def _explain(
    served: Services, exchange: str, request: bytes, at_ms: int, ids: Mapping[str, int], seen: Sequence[Seen] = ()
) -> RequestReport:
    controls = await _controls(served)
    return await run_in_threadpool(served.explainer.explain, exchange, request, at_ms, controls, ids, seen)


async def _controls(served: Services) -> Paced | None:
    found = await served.blobs.get(PACED_BLOB)
    try:
        return None if found is None else columns.decode(found[1])
    except msgspec.DecodeError:  # of another version of the software; the funnel then holds nobody back
        return None


async def _find(served: Services, auction_id: str) -> SampledRequest | None:
    """Return the newest stored request of the auction, looking through a bounded number of records, the newest."""
    position = await served.log.tail(Topic.REQUESTS, served.config.explain_records_max)
    found = None
    for _ in range(0, served.config.explain_records_max, _BATCH_RECORDS):
        batch = await served.log.read(Topic.REQUESTS, position, _BATCH_RECORDS)
        found = next((record.value for record in reversed(batch.records) if record.key == auction_id), found)
        position = batch.position
        if batch.end:
            break
    return None if found is None else decode_as(SampledRequest, found)


def _wanted(fields: dict[str, Any], now_ms: int) -> tuple[str, dict[str, Any], int, list[Seen]]:
    faults = [Fault(name[:64], "unknown field") for name in fields if name not in _FIELDS]
    exchange, request, at_ms = fields.get("exchange"), fields.get("request"), fields.get("at_ms", now_ms)
    if not isinstance(exchange, str):
        faults.append(Fault("exchange", "is required, as a string"))
    if not isinstance(request, dict):
        faults.append(Fault("request", "is required, as an object"))
    if not _is_time(at_ms):
        faults.append(Fault("at_ms", f"must be a whole number between 0 and {START_MS_MAX}"))
    seen = _seen(fields.get("seen", []), at_ms, faults)
    if faults:
        raise ValidationError(faults)
    return str(exchange), dict(request or {}), int(at_ms), seen


def _seen(given: Any, now_ms: Any, faults: list[Fault]) -> list[Seen]:
    if not isinstance(given, list) or len(given) > _SEEN_MAX:
        faults.append(Fault("seen", f"must be an array of at most {_SEEN_MAX} items"))
        return []
    seen = []
    for number, one in enumerate(given):
        at = f"seen[{number}]"
        if not isinstance(one, dict):
            faults.append(Fault(at, "must be an object"))
            continue
        faults += [Fault(f"{at}.{name[:64]}", "unknown field") for name in one if name not in Seen._fields]
        line_item_id, at_ms = one.get("line_item_id"), one.get("at_ms", now_ms)
        if type(line_item_id) is not int:
            faults.append(Fault(f"{at}.line_item_id", "is required, as a whole number"))
        elif not _is_time(at_ms):
            faults.append(Fault(f"{at}.at_ms", f"must be a whole number between 0 and {START_MS_MAX}"))
        else:
            seen.append(Seen(line_item_id, at_ms))
    return seen


def _is_time(value: Any) -> bool:
    return type(value) is int and 0 <= value <= START_MS_MAX
