"""Whatever a stranger sends on either port gets a right status, a counted reason, no body, and the bidder goes on."""

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from bidder.handlers import PIXEL
from dsp.events.schema import NoticeKind
from tests.integration.bidder.world import World, bid_request, link, price_at
from tests.waiting import until

pytestmark = [pytest.mark.platform, pytest.mark.asyncio(loop_scope="module")]


def changed(**fields: Any) -> bytes:
    return json.dumps({**bid_request("x"), **fields}).encode()


def without(*path: Any) -> bytes:
    request: Any = bid_request("x")
    place = request
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return json.dumps(request).encode()


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not json": b"hello",
    "cut short": json.dumps(bid_request("x")).encode()[:-7],
    "an array": b"[]",
    "a string": b'"x"',
    "a number": b"1e999",
    "null": b"null",
    "null bytes": b"\x00" * 100,
    "not utf-8": b'{"id":"\xff\xfe","imp":[{"id":"1"}]}',
    "lone surrogate": b'{"id":"\\ud800","imp":[{"id":"1","banner":{"w":300,"h":250}}]}',
    "utf-16": json.dumps(bid_request("x")).encode("utf-16"),
    "deep": b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep in ext": b'{"id":"x","imp":[{"id":"1"}],"ext":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
    "huge": b'{"id":"' + b"x" * 300_000 + b'"}',
    "huge number": b'{"id":"x","tmax":' + b"9" * 5_000 + b',"imp":[{"id":"1"}]}',
    "no id": without("id"),
    "no imp": without("imp"),
    "no imp id": without("imp", 0, "id"),
    "empty imp": changed(imp=[]),
    "imp of strings": changed(imp=["1"]),
    "imp is an object": changed(imp={"id": "1"}),
    "site and app": changed(app={"bundle": "b"}),
    "id is a list": changed(id=[1]),
    "id too long": changed(id="x" * 5_000),
}


@pytest.mark.parametrize("name", BODIES)
async def test_broken_bodies_get_400_and_nothing(bidder: World, name: str) -> None:
    before = await bidder.metric("dsp_bid_requests_total", outcome="invalid")
    url = f"http://127.0.0.1:{bidder.bid_port}/openrtb2/openrtb"
    async with bidder.session.post(url, data=BODIES[name]) as answer:
        assert (answer.status, await answer.read()) in ((400, b""), (204, b""))
        refused = answer.status == 400
    if name not in ("lone surrogate", "deep in ext", "huge number"):  # a tolerant reader may well read past these
        assert refused
    assert await bidder.metric("dsp_bid_requests_total", outcome="invalid") == before + refused
    assert await bidder.metric("dsp_bid_requests_total", outcome="error") == 0


ODD_VALUES: dict[str, dict[str, Any]] = {
    "tmax negative": {"tmax": -5},
    "tmax text": {"tmax": "soon"},
    "tmax huge": {"tmax": 10**18},
    "at unknown": {"at": 99},
    "bcat of numbers": {"bcat": [1, 2, {"a": 1}]},
    "cur of rubbish": {"cur": ["XXX", "", 7]},
    "user is a list": {"user": [1]},
    "device is text": {"device": "phone"},
    "geo is text": {"device": {"geo": "here"}},
    "regs rubbish": {"regs": {"gdpr": "yes", "ext": "no"}},
    "consent rubbish": {"regs": {"gdpr": 1}, "user": {"consent": "\x00!!"}},
    "unknown enums": {"device": {"devicetype": 4_000, "connectiontype": -7}},
    "unknown fields": {"brand_new": {"a": [1, 2, 3]}},
    "schain rubbish": {"source": {"schain": "none"}},
    "test rubbish": {"test": "maybe"},
    "wseat of objects": {"wseat": [{"a": 1}]},
}
ODD_IMPS: dict[str, dict[str, Any]] = {
    "floor nan": {"bidfloor": "NaN"},
    "floor negative": {"bidfloor": -1},
    "floor huge": {"bidfloor": 1e308},
    "floor text": {"bidfloor": "cheap"},
    "floor currency": {"bidfloorcur": "ZZZ"},
    "banner null": {"banner": None},
    "banner list": {"banner": []},
    "sizes absurd": {"banner": {"w": 2**40, "h": -1, "format": [{"w": "a"}, 3]}},
    "video rubbish": {"video": {"protocols": "2", "mimes": 5, "minduration": -1}},
    "native rubbish": {"native": {"request": "{broken"}},
    "pmp rubbish": {"pmp": {"private_auction": "x", "deals": [{}, 1, {"id": "d", "bidfloor": "a"}]}},
    "secure rubbish": {"secure": 77},
}


@pytest.mark.parametrize("name", [*ODD_VALUES, *ODD_IMPS])
async def test_odd_values_are_survived(bidder: World, name: str) -> None:
    request = bid_request("odd")
    request.update(ODD_VALUES.get(name, {}))
    request["imp"][0].update(ODD_IMPS.get(name, {}))
    status, _ = await bidder.bid(request)
    assert status in (200, 204, 400)
    assert await bidder.metric("dsp_bid_requests_total", outcome="error") == 0


BOMB = gzip.compress(b'{"id":"' + b" " * 50_000_000 + b'"}', mtime=0)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", BOMB),
        ("deflate", zlib.compress(b" " * 50_000_000)),
        ("gzip", gzip.compress(BOMB, mtime=0)),
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b'{"id":"x"}', mtime=0)[:-9]),
        ("gzip", b""),
        ("br", b"whatever"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0)),
        ("utf-8", b"{}"),
        ("x" * 4_000, b"{}"),
    ],
)
async def test_wrong_encodings_get_400(bidder: World, encoding: str, body: bytes) -> None:
    url = f"http://127.0.0.1:{bidder.bid_port}/openrtb2/openrtb"
    async with bidder.session.post(url, data=body, headers={"Content-Encoding": encoding}) as answer:
        assert (answer.status, await answer.read()) == (400, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/openrtb2/nobody", 404),
        ("POST", "/openrtb2/", 404),
        ("POST", "/openrtb2/openrtb/more", 404),
        ("POST", "/openrtb2/%6fpenrtb%00", 404),
        ("POST", "/openrtb2/..%2f..%2fetc%2fpasswd", 404),
        ("POST", "/", 404),
        ("GET", "/openrtb2/openrtb", 405),
        ("DELETE", "/openrtb2/openrtb", 405),
        ("GET", "/metrics", 404),
        ("POST", "/openrtb2/" + "x" * 3_000, 404),
    ],
)
async def test_other_paths_and_methods(bidder: World, method: str, path: str, status: int) -> None:
    before = await bidder.metric("dsp_no_bids_total", exchange="unknown")
    url = f"http://127.0.0.1:{bidder.bid_port}{path}"
    async with bidder.session.request(method, url, data=b"{}") as answer:
        assert (answer.status, await answer.read()) == (status, b"")
    assert await bidder.metric("dsp_no_bids_total", exchange="unknown") == before + 1


async def raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes as they are and return everything that comes back until the server closes or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    found = b""
    try:
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(65_536):
                found += chunk
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return found


@pytest.mark.parametrize("port", ["bid_port", "notice_port", "admin_port"])
@pytest.mark.parametrize(
    "data",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /openrtb2/openrtb HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /openrtb2/openrtb HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /imp?t=" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000 + b"\r\n",
        b"GET /\xff\xfe?t=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /imp?t=a\r\nb HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_without_a_word(bidder: World, port: str, data: bytes) -> None:
    answer = await raw(getattr(bidder, port), data, 1.0)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1:2] in ([b"400"], [b"404"], []), answer
    assert body == b""
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400", "http_malformed"),
        (b"GET /secrets HTTP/1.1\r\nHost: x\r\n\r\n", b"404", "path"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", b"405", "method"),
        (
            b"GET /metrics HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % one for one in range(200)) + b"\r\n",
            b"400",
            "head_too_large",
        ),
    ],
)
async def test_what_the_admin_port_refuses_is_counted(bidder: World, data: bytes, status: bytes, reason: str) -> None:
    before = await bidder.metric("dsp_admin_refused_total", reason=reason)
    answer = await raw(bidder.admin_port, data, 1.0)
    assert answer.split()[1] == status, answer
    assert await bidder.metric("dsp_admin_refused_total", reason=reason) == before + 1


async def test_pipelined_requests_are_answered_in_order(bidder: World) -> None:
    def http(body: bytes) -> bytes:
        head = f"POST /openrtb2/openrtb HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    good = json.dumps(bid_request("p1")).encode()
    data = http(good) + http(b"{") + http(good.replace(b"p1", b"p2"))

    async def answers() -> bytes:
        answer = await raw(bidder.bid_port, data, 1.0)
        return answer if re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400", b"200"] else b""

    answer = await until(answers)  # the first requests after a pause may find no money leased
    assert answer.index(b'"p1"') < answer.index(b'"p2"')


async def test_a_slow_body_is_given_up(bidder: World) -> None:
    head = b"POST /openrtb2/openrtb HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    answer = await raw(bidder.bid_port, head, 6.0)
    assert answer.startswith(b"HTTP/1.1 400")


@pytest_asyncio.fixture(loop_scope="module")
async def bid(bidder: World) -> AsyncIterator[dict[str, Any]]:
    yield await bidder.offer("notice")


async def test_prices_must_make_sense(bidder: World, bid: dict[str, Any]) -> None:
    for price in ("NaN", "inf", "-1", "-0.01", "1e308", "abc", "9999999", "1_0", "0x10", "5.5", "%00", "٣", "1" * 300):
        assert await bidder.notify(price_at(bid["burl"], quote(price))) == 400, price
    assert await bidder.notify(price_at(bid["burl"], "AUDIT")) == 400
    assert await bidder.metric("dsp_notices_refused_total", reason="price_above_bid") >= 1
    assert await bidder.notify(bid["burl"]) == 200  # the macro was not substituted: billed at our bid
    bills = [one for one in await bidder.notices() if one.facts.bid_id == bid["id"]]
    assert [one.cost_micros for one in bills] == [bills[0].facts.cost_micros_max]


async def test_who_checks_a_link_or_loads_it_ahead_has_not_clicked(bidder: World, bid: dict[str, Any]) -> None:
    click, pixel = link(bid["adm"], "click"), link(bid["adm"], "imp")
    asked = [
        ("HEAD", click, {}, 302),
        ("HEAD", pixel, {}, 200),
        ("HEAD", bid["burl"], {}, 200),
        ("HEAD", click.replace("/click", "/imp"), {}, 400),
        ("GET", click, {"Sec-Purpose": "prefetch;prerender"}, 503),
        ("GET", click, {"Purpose": "prefetch"}, 503),
        ("GET", click, {"X-Moz": "prefetch"}, 503),
    ]
    for method, url, headers, status in asked:
        async with bidder.session.request(method, url, headers=headers, allow_redirects=False) as answer:
            assert (answer.status, await answer.read()) == (status, b"")
    assert [one for one in await bidder.notices() if one.facts.bid_id == bid["id"]] == []
    async with bidder.session.get(click, allow_redirects=False) as answer:
        assert answer.status == 302
    async with bidder.session.get(f"{click}&r=0", allow_redirects=False) as answer:  # as a player's tracker
        assert (answer.status, await answer.read()) == (200, PIXEL)
    assert [one.kind for one in await bidder.notices() if one.facts.bid_id == bid["id"]] == [NoticeKind.CLICK]


async def test_tokens_must_be_ours_and_of_the_kind(bidder: World, bid: dict[str, Any]) -> None:
    base = f"http://127.0.0.1:{bidder.notice_port}"
    token = link(bid["adm"], "click").partition("t=")[2]
    payload, _, mac = token.partition(".")
    forged = {
        "": "token_missing",
        "x": "token_malformed",
        payload: "token_forged",
        f"{payload}.": "token_forged",
        f"{payload}A.{mac}": "token_forged",
        f"{payload}.{mac[:-4]}AAAA": "token_forged",
        token: "token_forged",  # a click's token does not bill
        "é" * 10: "token_malformed",
        "A" * 3_000: "token_oversized",
        f"{payload}.{mac}.{mac}": "token_forged",
    }
    for text, reason in forged.items():
        assert await bidder.notify(f"{base}/bill?t={quote(text)}&p=1") == 400, text
        assert await bidder.metric("dsp_notices_refused_total") > 0, reason
    assert await bidder.notify(f"{base}/bill") == 400
    assert await bidder.notify(f"{base}/click?t={payload}.AAAA&u=https://evil.example") == 400
    assert not [one for one in await bidder.notices() if one.facts.bid_id == bid["id"]]


async def test_a_click_leads_nowhere_else(bidder: World, bid: dict[str, Any]) -> None:
    url = link(bid["adm"], "click") + "&u=https://evil.example&url=//evil.example&redirect=https://evil.example"
    async with bidder.session.get(url, allow_redirects=False, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 302
        assert answer.headers["Location"].startswith("https://shop.example/landing?")


async def test_replays_are_acknowledged_and_counted_once(bidder: World, bid: dict[str, Any]) -> None:
    url = price_at(bid["burl"], "1.5")
    assert await asyncio.gather(*(bidder.notify(url) for _ in range(20))) == [200] * 20
    assert await bidder.notify(price_at(bid["burl"], "2.0")) == 200  # the first price stands
    bills = [one for one in await bidder.notices() if one.facts.bid_id == bid["id"]]
    assert [one.cost_micros for one in bills] == [1_500]


async def test_post_options_and_other_methods(bidder: World, bid: dict[str, Any]) -> None:
    url = link(bid["adm"], "imp")
    async with bidder.session.post(url, data=b"x" * 100_000) as answer:
        assert answer.status == 400  # the URL says it all; a body that large means no good
    async with bidder.session.post(url, data=b"x" * 10_000) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/gif")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert (await answer.read())[:6] == b"GIF89a"
    async with bidder.session.options(url) as answer:
        assert answer.status == 204
    async with bidder.session.put(url) as answer:
        assert answer.status == 405
    assert await bidder.status(bidder.notice_port, "/nothing") == 404
    assert await bidder.status(bidder.notice_port, "/openrtb2/openrtb", "POST") == 404


async def test_conversions_must_fit_a_rule(bidder: World, bid: dict[str, Any]) -> None:
    async with bidder.session.get(link(bid["adm"], "click"), allow_redirects=False) as answer:
        token = answer.headers["Location"].rpartition("=")[2]
    base = f"http://127.0.0.1:{bidder.notice_port}/conv?t={token}"
    for rule in ("6", "-5", "abc", "9" * 40, "%00", "٥"):
        assert await bidder.notify(f"{base}&rule={rule}") == 400, rule
    assert await bidder.notify(base) == 200  # the advertiser's only rule
    assert await bidder.notify(f"{base}&rule=5") == 200


async def test_it_still_bids(bidder: World) -> None:
    await bidder.offer("after")
    assert await bidder.metric("dsp_bid_requests_total", outcome="error") == 0
    assert "unhandled" not in bidder.log()
