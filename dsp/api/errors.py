"""Every refusal as a problem document (RFC 9457) with a JSON pointer to each refused field."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from dsp.kernel import logging
from dsp.kernel.errors import DspError, Fault, InputError, UnavailableError, ValidationError

MEDIA_TYPE = "application/problem+json"
_RETRY = {"Retry-After": "1"}  # seconds
_HEADERS: dict[int, dict[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.TOO_MANY_REQUESTS: _RETRY,
}
_METHODS = ("GET", "PATCH", "POST")
_INDEX = re.compile(r"\[(\d+)\]")


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One refused field: where it is in the body (RFC 6901) or in the query, and why it is refused."""

    pointer: str
    field: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = []


class RequestError(InputError):
    """A request is refused as HTTP: for its key, a header, or the size or type of its body. Carries its own status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def problem(
    request_id: str,
    status: int,
    detail: str,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the problem document."""
    errors = [FieldError(pointer=pointer(each.field), field=each.field, detail=each.message) for each in faults]
    title = HTTPStatus(status).phrase
    document = Problem(title=title, status=status, detail=detail, request_id=request_id, errors=errors)
    return Response(msgspec.json.encode(document), status, dict(headers or {}), MEDIA_TYPE)


def unavailable(request_id: str, detail: str) -> Response:
    """Return the problem document of what a second try may mend."""
    return problem(request_id, HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=_RETRY)


def pointer(field: str) -> str:
    """Return the JSON pointer of a field path such as `dayparts[0].end_hour`."""
    if not field:
        return ""
    path = _INDEX.sub(r".\1", field)
    return "".join([f"/{part.replace('~', '~0').replace('/', '~1')}" for part in path.split(".")])


def install(app: FastAPI) -> None:
    """Answer every expected exception with a problem; unexpected ones are dsp.api.middleware's."""
    handlers: dict[Any, Any] = {
        DspError: _refused,
        HTTPException: _http,
        RequestValidationError: _parameters,
        IntegrityError: _integrity,
        DataError: _data,
        UnavailableError: _unavailable,
        PoolTimeoutError: _unavailable,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def request_id(request: Request) -> str:
    """Return the id that dsp.api.middleware gave the request."""
    return str(request.state.request_id)


def _refused(request: Request, fault: DspError) -> Response:
    if isinstance(fault, ValidationError):
        return problem(request_id(request), fault.status, "Some values are refused.", fault.faults)
    return problem(request_id(request), fault.status, str(fault), headers=_HEADERS.get(fault.status))


def _http(request: Request, fault: HTTPException) -> Response:
    """Answer for the framework: no such path, no such method."""
    detail = {404: "There is nothing at this path.", 405: "This path does not answer this method."}
    text = detail.get(fault.status_code, str(fault.detail))
    # The framework names the methods of the first route that has the path; here each method is a route.
    allow = {"Allow": ", ".join(_allowed(request))} if fault.status_code == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return problem(request_id(request), fault.status_code, text, headers={**(fault.headers or {}), **allow})


def _allowed(request: Request) -> list[str]:
    """Return the methods that the path answers."""
    routes = request.app.routes
    scopes = [{**request.scope, "method": method} for method in _METHODS]
    return [one["method"] for one in scopes if any(route.matches(one)[0] is Match.FULL for route in routes)]


def _parameters(request: Request, fault: RequestValidationError) -> Response:
    faults = [Fault(".".join(str(part) for part in each["loc"][1:]), str(each["msg"])) for each in fault.errors()]
    return problem(request_id(request), HTTPStatus.UNPROCESSABLE_ENTITY, "Some parameters are refused.", faults)


def _integrity(request: Request, _fault: IntegrityError) -> Response:
    """Two writers took the same name at once; a retry will tell which field it is."""
    return problem(
        request_id(request), HTTPStatus.CONFLICT, "Somebody else wrote the same at the same time; try again."
    )


def _data(request: Request, _fault: DataError) -> Response:
    """A value that the database cannot hold, such as a NUL in a text, is nowhere in it."""
    detail = "Some value is none that the database can hold."
    return problem(request_id(request), HTTPStatus.UNPROCESSABLE_ENTITY, detail)


def _unavailable(request: Request, fault: Exception) -> Response:
    """What is away, and where it was looked for, is for the log and not for strangers."""
    logging.get(__name__).warning("unavailable", fault=str(fault), request_id=request_id(request))
    return unavailable(request_id(request), "Something that this needs does not answer; try again.")
