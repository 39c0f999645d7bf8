"""What handlers have at hand, and what checks a request before a handler runs: its key, body and conditions."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from dsp.api.config import ApiConfig
from dsp.api.errors import RequestError
from dsp.api.explain import Explainer
from dsp.cache.port import BlobStore
from dsp.kernel.clock import Clock
from dsp.kernel.config import Platform
from dsp.kernel.errors import DecodeError, Fault, ValidationError
from dsp.kernel.lifecycle import Lifecycle
from dsp.kernel.rate import TokenBucket
from dsp.store.database import session_factory
from dsp.store.keys import ApiKey, Role, find_key
from dsp.stream.port import EventLog

_JSON = frozenset({"application/json", "application/merge-patch+json"})
#: What headers look like.
IDEMPOTENCY_KEY = r"[!-~]{1,200}"
IF_MATCH = r'\*|"([0-9]{1,18})"'
_bearer = HTTPBearer(auto_error=False, description="An API key, made by `python -m dsp key create NAME --role ROLE`.")


@dataclass
class Services:
    """What the application was made with."""

    engine: Engine
    clock: Clock
    platform: Platform
    config: ApiConfig
    lifecycle: Lifecycle
    log: EventLog
    blobs: BlobStore
    reads: sessionmaker[Session] = field(init=False)
    writes: sessionmaker[Session] = field(init=False)
    explainer: Explainer = field(init=False)
    rates: dict[int, TokenBucket] = field(init=False, default_factory=dict)  # by key

    def __post_init__(self) -> None:
        self.reads = session_factory(self.engine, read_only=True)
        self.writes = session_factory(self.engine)
        self.explainer = Explainer(self.reads, self.platform)

    def admits(self, key: ApiKey) -> bool:
        """Count a request of a key; return whether it keeps to the rate."""
        now_ns = self.clock.elapsed_ns()
        rate = self.rates.setdefault(key.id, TokenBucket(self.config.requests_per_second_max, now_ns))
        return rate.take(now_ns)


def services(request: Request) -> Services:
    """Return what the application was made with."""
    made: Services = request.app.state.services
    return made


Served = Annotated[Services, Depends(services)]


def role(wanted: Role) -> Callable[..., ApiKey]:
    """Return a dependency that admits keys of this role or a higher one, and gives the key."""

    def check(served: Served, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> ApiKey:
        if credentials is None:
            raise RequestError(HTTPStatus.UNAUTHORIZED, "The request needs `Authorization: Bearer KEY`.")
        with served.reads() as session:
            key = find_key(session, credentials.credentials)
        if key is None:
            raise RequestError(HTTPStatus.UNAUTHORIZED, "The API key is unknown or revoked.")
        if not served.admits(key):
            raise RequestError(HTTPStatus.TOO_MANY_REQUESTS, "The key asks too often.")
        if not key.role.may(wanted):
            raise RequestError(HTTPStatus.FORBIDDEN, f"This needs a key with role {wanted}; yours has {key.role}.")
        return key

    return check


#: For a client's key, which has an `advertiser_id`, what is others' must not be there.
Client = Annotated[ApiKey, Depends(role(Role.CLIENT))]
Viewer = Annotated[ApiKey, Depends(role(Role.VIEWER))]
Member = Annotated[ApiKey, Depends(role(Role.MEMBER))]
Owner = Annotated[ApiKey, Depends(role(Role.OWNER))]


async def _body(request: Request, served: Served) -> bytes:
    """Read the body within its bound, refusing what is not plain JSON."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type not in _JSON:
        raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must not be compressed.")
    bound = served.config.body_bytes_max
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > bound:
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body must have at most {bound} bytes.")
    return bytes(chunks)


Body = Annotated[bytes, Depends(_body)]


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        DecodeError: it is not JSON, not UTF-8, nested too deep, or not an object.
    """
    try:
        decoded = msgspec.json.decode(body)
    except RecursionError as fault:
        raise DecodeError("The body is nested too deep.") from fault
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise DecodeError(f"The body is not JSON: {fault}") from fault
    if not isinstance(decoded, dict):
        raise DecodeError("The body must be a JSON object.")
    return decoded


def version_wanted(headers: Mapping[str, str], *, required: bool) -> int | None:
    """Return the version that `If-Match` names; None where any will do.

    Raises:
        RequestError: 428 when it is missing and required, 400 when it is not an ETag of ours.
    """
    given = headers.get("if-match")
    if given is None:
        if required:
            raise RequestError(HTTPStatus.PRECONDITION_REQUIRED, "The request needs `If-Match` with the entity's ETag.")
        return None
    match = re.fullmatch(IF_MATCH, given.strip())
    if match is None:
        raise RequestError(HTTPStatus.BAD_REQUEST, "`If-Match` must be one ETag as this API gives them, or *.")
    return None if match[1] is None else int(match[1])


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Return the Idempotency-Key, if there is one; raises RequestError when it is not fit to be one."""
    given = headers.get("idempotency-key")
    if given is not None and not re.fullmatch(IDEMPOTENCY_KEY, given):
        raise RequestError(HTTPStatus.BAD_REQUEST, "`Idempotency-Key` must be 1 to 200 visible ASCII characters.")
    return given


def fingerprint(request: Request, body: bytes) -> str:
    """Return a hash by which a repeated request is known to be the same."""
    head = f"{request.method} {request.url.path} {request.headers.get('if-match', '')}\n"
    return hashlib.sha256(head.encode() + body).hexdigest()


def known_parameters(request: Request, known: Set[str], repeatable: Set[str] = frozenset()) -> None:
    """Refuse a query parameter that would be ignored: a mistyped or second filter must not answer for another."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    faults = [Fault(name[:64], "unknown parameter") for name in given if name not in known | repeatable]
    faults += [Fault(name, "may be given once") for name, times in given.items() if name in known and times > 1]
    if faults:
        raise ValidationError(faults)
