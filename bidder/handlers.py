"""HTTP in, HTTP out: the bid port and the notice port. What is decided lives in bidder.auction and bidder.notices."""

import gzip
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_plus

from bidder.auction import Answer, Auctioneer
from bidder.connection import Reply, Request
from bidder.notices import NoticeDesk, Outcome
from bidder.readiness import Readiness
from bidder.run import Arrival
from dsp.events.schema import NoticeKind
from dsp.kernel import metrics
from dsp.openrtb.profile import Profile

BID_PREFIX = "/openrtb2/"
READY_PATH = "/ready"
VERSION_HEADER = b"x-openrtb-version"
_VERSION = re.compile(rb"2\.[0-9]")
_GZIP_BYTES_MIN = 512  # less is not worth the work
_NOTICE_PATHS = {f"/{kind.value}": kind for kind in NoticeKind}
_QUERY_FIELDS_MAX = 16
#: Pages of every origin may report, nothing may be cached, and no referrer goes on to the landing page.
_NOTICE_HEADERS = (
    b"Access-Control-Allow-Origin: *\r\nCache-Control: no-store, max-age=0\r\n"
    b"Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
)
_PREFLIGHT = _NOTICE_HEADERS + b"Access-Control-Allow-Methods: GET, POST\r\nAccess-Control-Max-Age: 86400\r\n"
#: What browsers say when they load what may be wanted next (W3C Nav Speculation, and those before it).
_SPECULATION = (
    (b"sec-purpose", b"prefetch"),
    (b"purpose", b"prefetch"),
    (b"x-moz", b"prefetch"),
    (b"x-purpose", b"preview"),
)
#: A transparent GIF of one pixel.
PIXEL = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00"
    b"\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)


class BidHandler:
    """Answers the bid port: POST /openrtb2/{exchange}, and GET /ready for exchanges that ask."""

    def __init__(self, profiles: Mapping[str, Profile], auctioneer: Auctioneer, readiness: Readiness) -> None:
        self._profiles = profiles
        self._auctioneer = auctioneer
        self._readiness = readiness
        self._tally = auctioneer.tally
        self.latest_ns = 0  # when the latest request came, for draining

    async def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        self.latest_ns = request.arrived_ns
        if not request.path.startswith(BID_PREFIX):
            return self._elsewhere(request.path)
        profile = self._profiles.get(request.path[len(BID_PREFIX) :])
        if profile is None:
            self._tally.refused("unknown_exchange")
            return Reply(404)
        if request.method != "POST":
            self._tally.refused("method")
            return Reply(405, b"Allow: POST\r\n")
        if request.fault:
            self._tally.invalid(profile.name, request.fault)
            return Reply(400, _bid_headers(None, profile.version, False, False), close=True)
        encoded = request.headers.get(b"content-encoding")
        encoding = encoded.decode("latin-1").lower() if encoded else ""
        traceparent = request.headers.get(b"traceparent", b"") if self._tally.tracer is not None else b""
        arrival = Arrival(profile, request.body, encoding, request.arrived_ns, traceparent)
        answer = await self._auctioneer.answer(arrival)
        return self._reply(request, profile, answer)

    def broken(self) -> None:
        """Count a request that was not even HTTP."""
        self._tally.refused("http_malformed")

    def _elsewhere(self, path: str) -> Reply:
        if path != READY_PATH:
            self._tally.refused("path")
            return Reply(404)
        # Some exchanges look for the character 1; a body that says no must not hold it.
        return Reply(200, b"Content-Type: text/plain\r\n", b"1" if self._readiness.ready() else b"not ready")

    def _reply(self, request: Request, profile: Profile, answer: Answer) -> Reply:
        body, packed = answer.body, False
        if profile.gzip and len(body) >= _GZIP_BYTES_MIN and b"gzip" in request.headers.get(b"accept-encoding", b""):
            body, packed = gzip.compress(body, compresslevel=1), True
        headers = _bid_headers(request.headers.get(VERSION_HEADER), profile.version, bool(body), packed)
        return Reply(answer.status, headers, body, self._readiness.draining)


class NoticeHandler:
    """Answers the notice port: GET or POST /{win,bill,loss,imp,click,conv}?t=TOKEN. HEAD only asks."""

    def __init__(self, desk: NoticeDesk) -> None:
        self._desk = desk

    async def __call__(self, request: Request) -> Reply:
        """Answer one notice. What a POST carries in its body is of no interest; the URL says it all."""
        kind = _NOTICE_PATHS.get(request.path)
        if kind is None:
            _refused("path")
            return Reply(404)
        if request.method == "OPTIONS":
            return Reply(204, _PREFLIGHT)
        if request.method not in ("GET", "HEAD", "POST"):
            _refused("method")
            return Reply(405, b"Allow: GET, HEAD, POST, OPTIONS\r\n")
        if request.fault:
            _refused(request.fault)
            return Reply(400, _NOTICE_HEADERS, close=True)
        query = parse_query(request.query)
        if request.method == "HEAD":
            return _notice_reply(kind, self._desk.look(kind, query))
        if kind is NoticeKind.CLICK and _ahead(request.headers):
            _refused("prefetch")
            return Reply(503, _NOTICE_HEADERS)
        return _notice_reply(kind, await self._desk.receive(kind, query))

    def broken(self) -> None:
        """Count a request that was not even HTTP."""
        _refused("http_malformed")


def _refused(reason: str) -> None:
    metrics.NOTICES_REFUSED.labels(reason).inc()


def parse_query(text: str) -> dict[str, str]:
    """Return a query's fields, the first of each name; those beyond a bound are left out."""
    fields: dict[str, str] = {}
    for part in text.split("&", _QUERY_FIELDS_MAX)[:_QUERY_FIELDS_MAX]:
        name, _, value = part.partition("=")
        if name not in fields:
            fields[name] = unquote_plus(value) if "%" in value or "+" in value else value
    return fields


@lru_cache(maxsize=64)
def _bid_headers(asked: bytes | None, default: str, json: bool, packed: bool) -> bytes:
    version = asked if asked is not None and _VERSION.fullmatch(asked) else default.encode("ascii")
    content_type = b"Content-Type: application/json\r\n" if json else b""
    encoding = b"Content-Encoding: gzip\r\n" if packed else b""
    return b"%b: %b\r\n%b%b" % (VERSION_HEADER, version, content_type, encoding)


def _ahead(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a browser asks before anybody has clicked; refused, it asks again when somebody does."""
    return any(mark in headers.get(name, b"").lower() for name, mark in _SPECULATION)


def _notice_reply(kind: NoticeKind, outcome: Outcome) -> Reply:
    if outcome.status == 302:
        return Reply(302, b"%bLocation: %b\r\n" % (_NOTICE_HEADERS, outcome.location.encode("ascii")))
    if outcome.status == 503:
        return Reply(503, _NOTICE_HEADERS + b"Retry-After: 1\r\n")
    if kind in (NoticeKind.IMPRESSION, NoticeKind.CLICK) and outcome.status == 200:
        return Reply(200, _NOTICE_HEADERS + b"Content-Type: image/gif\r\n", PIXEL)
    return Reply(outcome.status, _NOTICE_HEADERS)
