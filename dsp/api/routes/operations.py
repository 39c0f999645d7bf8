"""/healthz, /readyz and /metrics: for those who run the platform. No key is needed, and nothing secret is told."""

import os

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from dsp.api.context import Served
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import PROCESS_HEADER, Phase
from dsp.store.migrate import current, serves

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive", response_class=PlainTextResponse)
async def healthz() -> PlainTextResponse:
    """Answer 200 while the process runs; looks at nothing else, and waits for no thread that may wait for more."""
    return _told("ok")


@router.get(
    "/readyz",
    summary="Can the process serve",
    response_class=PlainTextResponse,
    responses={503: {"description": "Starting, draining, or without a migrated database."}},
)
def readyz(served: Served) -> PlainTextResponse:
    """Answer 200 when the database is there with the schema that this version needs and the process is not draining."""
    if served.lifecycle.phase is not Phase.READY:
        return _told(served.lifecycle.phase.value, 503)
    try:
        found = current(served.engine)
    except (SQLAlchemyError, UnavailableError):
        return _told("the database does not answer", 503)
    if not serves(found):
        return _told("the database is not migrated", 503)
    return _told("ready")


@router.get("/metrics", summary="Metrics in the Prometheus text format", response_class=PlainTextResponse)
def metrics() -> Response:
    """Return the metrics of the API's process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _told(text: str, status: int = 200) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status, {PROCESS_HEADER: str(os.getpid())})
