"""A bidder of forty lines: answers every banner with one bid, and remembers the notices it got."""

import asyncio
import gzip
from collections import Counter
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web


class FakeBidder:
    """Bids `price_cpm` on banners; can be told to be late, to fail, or to refuse its first notices."""

    def __init__(self, price_cpm: float) -> None:
        self.price_cpm = price_cpm
        self.delay_seconds = 0.0
        self.failures_left = 0
        self.asked = 0
        self.exchanges: set[str] = set()
        self.notices: Counter[tuple[str, str]] = Counter()
        self.prices: dict[tuple[str, str], str] = {}
        self.connections: set[Any] = set()
        self.url = ""
        self.public_url = ""  # where notices are said to go; empty: to `url`

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/openrtb2/{exchange}", self._bid)
        app.router.add_get("/{kind:win|bill|loss|imp|click|conv}", self._notice)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _bid(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.exchanges.add(request.match_info["exchange"])
        self.connections.add(request.transport)
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        asked = msgspec.json.decode(body)
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        bids = [self._one(asked["id"], imp) for imp in asked["imp"] if "banner" in imp]
        if not bids:
            return web.Response(status=204)
        return web.json_response({"id": asked["id"], "cur": "USD", "seatbid": [{"seat": "s", "bid": bids}]})

    def _one(self, auction_id: str, imp: dict[str, Any]) -> dict[str, Any]:
        token = quote(f"{auction_id}.{imp['id']}")

        def url(kind: str) -> str:
            return f"{self.public_url or self.url}/{kind}?t={token}&p=${{AUCTION_PRICE}}"

        return {
            "id": f"b-{auction_id}-{imp['id']}", "impid": imp["id"], "price": self.price_cpm, "crid": "1",
            "adomain": ["a.example"], "cat": ["IAB2"], "w": imp["banner"]["w"], "h": imp["banner"]["h"], "mtype": 1,
            "adm": f'<a href="{url("click")}">x</a><img src="{url("imp")}">',
            "nurl": url("win"), "burl": url("bill"), "lurl": url("loss"),
        }  # fmt: skip

    async def _notice(self, request: web.Request) -> web.Response:
        kind, token = request.match_info["kind"], request.query["t"]
        if self.failures_left:
            self.failures_left -= 1
            return web.Response(status=503)
        self.notices[kind, token] += 1
        self.prices[kind, token] = request.query.get("p", "")
        if kind == "click":
            raise web.HTTPFound(f"https://a.example/?dsp_click_id={quote(token)}")
        return web.Response()
