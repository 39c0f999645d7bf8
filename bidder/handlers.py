"""HTTP in, HTTP out: the bid port and the notice port. What is decided lives in bidder.auction and bidder.notices."""

import asyncio
import gzip
import re
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter_ns
from urllib.parse import parse_qsl

from aiohttp import web

from bidder.auction import Answer, Auctioneer
from bidder.config import BidderConfig
from bidder.listener import Connection
from bidder.notices import NoticeDesk, Reply
from bidder.raw import RawResponse
from bidder.readiness import Readiness
from bidder.run import Arrival
from bidder.tally import Tally
from dsp.events.schema import NoticeKind
from dsp.openrtb.profile import Profile

BID_PREFIX = "/openrtb2/"
READY_PATH = "/ready"
VERSION_HEADER = "x-openrtb-version"
_VERSION = re.compile(r"2\.[0-9]")
_GZIP_BYTES_MIN = 512  # less is not worth the work
_NOTICE_PATHS = {f"/{kind.value}": kind for kind in NoticeKind}
_QUERY_FIELDS_MAX = 16
#: Pages of every origin may report, nothing may be cached, and no referrer goes on to the landing page.
_NOTICE_HEADERS = (
    b"Access-Control-Allow-Origin: *\r\nCache-Control: no-store, max-age=0\r\n"
    b"Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
)
_PREFLIGHT = _NOTICE_HEADERS + b"Access-Control-Allow-Methods: GET, POST\r\nAccess-Control-Max-Age: 86400\r\n"
#: A transparent GIF of one pixel.
PIXEL = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00"
    b"\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)


class BidHandler:
    """Answers the bid port: POST /openrtb2/{exchange}, and GET /ready for exchanges that ask."""

    def __init__(
        self,
        config: BidderConfig,
        profiles: Mapping[str, Profile],
        auctioneer: Auctioneer,
        readiness: Readiness,
        tally: Tally,
    ) -> None:
        self._config = config
        self._profiles = profiles
        self._auctioneer = auctioneer
        self._readiness = readiness
        self._tally = tally
        self.latest_ns = 0  # when the latest request came, for draining

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.latest_ns = perf_counter_ns()
        connection = request.protocol
        arrived_ns = connection.arrived_ns if isinstance(connection, Connection) else self.latest_ns
        path = request.rel_url.raw_path
        if not path.startswith(BID_PREFIX):
            return self._elsewhere(path)
        profile = self._profiles.get(path[len(BID_PREFIX) :])
        if profile is None:
            self._tally.refused("unknown_exchange")
            return RawResponse(404, b"")
        if request.method != "POST":
            self._tally.refused("method")
            return RawResponse(405, b"Allow: POST\r\n")
        body = await read_body(request, self._config.body_seconds_max)
        if body is None:
            self._tally.invalid(profile.name, "body_unreadable")
            return RawResponse(400, _bid_headers(profile.version, False, False), close=True)
        encoding = request.headers.get("Content-Encoding", "").lower()
        answer = await self._auctioneer.answer(Arrival(profile, body, encoding, arrived_ns))
        return self._response(request, profile, answer)

    def broken(self, status: int) -> None:
        """Count a request that was not even HTTP."""
        self._tally.refused("http_malformed")

    def _elsewhere(self, path: str) -> RawResponse:
        if path != READY_PATH:
            self._tally.refused("path")
            return RawResponse(404, b"")
        # Some exchanges look for the character 1; a body that says no must not hold it.
        return RawResponse(200, b"Content-Type: text/plain\r\n", b"1" if self._readiness.ready() else b"not ready")

    def _response(self, request: web.BaseRequest, profile: Profile, answer: Answer) -> RawResponse:
        version, body, packed = request.headers.get(VERSION_HEADER, ""), answer.body, False
        if profile.gzip and len(body) >= _GZIP_BYTES_MIN and _accepts_gzip(request):
            body, packed = gzip.compress(body, compresslevel=1), True
        if not _VERSION.fullmatch(version):
            version = profile.version
        headers = _bid_headers(version, bool(body), packed)
        return RawResponse(answer.status, headers, body, close=self._readiness.draining)


class NoticeHandler:
    """Answers the notice port: GET or POST /{win,bill,loss,imp,click,conv}?t=TOKEN."""

    def __init__(self, desk: NoticeDesk, tally: Tally) -> None:
        self._desk = desk
        self._tally = tally

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one notice. What a POST carries in its body is of no interest; the URL says it all."""
        kind = _NOTICE_PATHS.get(request.rel_url.raw_path)
        if kind is None:
            self._tally.notice_refused("path")
            return RawResponse(404, b"")
        if request.method == "OPTIONS":
            return RawResponse(204, _PREFLIGHT)
        if request.method not in ("GET", "POST"):
            self._tally.notice_refused("method")
            return RawResponse(405, b"Allow: GET, POST, OPTIONS\r\n")
        return _notice_response(kind, await self._desk.receive(kind, parse_query(request.rel_url.raw_query_string)))

    def broken(self, status: int) -> None:
        """Count a request that was not even HTTP."""
        self._tally.notice_refused("http_malformed")


async def read_body(request: web.BaseRequest, seconds_max: float) -> bytes | None:
    """Return the body, or None when it is too large, too slow, or breaks off."""
    try:
        if request.content.is_eof():  # it is here already: no timer needed
            return await request.read()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with asyncio.timeout(seconds_max):
            return await request.read()
    except (web.HTTPException, web.RequestPayloadError, TimeoutError, ConnectionError):
        return None


def parse_query(text: str) -> dict[str, str]:
    """Return a query's fields, the first of each name; nothing for one that is no query."""
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX, errors="replace")
    except ValueError:
        return {}
    return dict(reversed(fields))


def _accepts_gzip(request: web.BaseRequest) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "").lower()


@lru_cache(maxsize=64)
def _bid_headers(version: str, json: bool, packed: bool) -> bytes:
    content_type = "Content-Type: application/json\r\n" if json else ""
    encoding = "Content-Encoding: gzip\r\n" if packed else ""
    return f"{VERSION_HEADER}: {version}\r\n{content_type}{encoding}".encode("ascii")


def _notice_response(kind: NoticeKind, reply: Reply) -> RawResponse:
    if reply.status == 302:
        return RawResponse(302, b"%bLocation: %b\r\n" % (_NOTICE_HEADERS, reply.location.encode("ascii")))
    if reply.status == 503:
        return RawResponse(503, _NOTICE_HEADERS + b"Retry-After: 1\r\n")
    if kind is NoticeKind.IMPRESSION and reply.status == 200:
        return RawResponse(200, _NOTICE_HEADERS + b"Content-Type: image/gif\r\n", PIXEL)
    return RawResponse(reply.status, _NOTICE_HEADERS)
