"""A small world for the bidder: a catalogue, its publication, requests, and a bidder process on free ports."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from dsp.cache.connect import blob_store, lease_store
from dsp.cache.port import Limit
from dsp.catalog.entities import Advertiser, Campaign, Catalogue, ConversionRule, Creative, LineItem, MediaFormat
from dsp.catalog.status import Status
from dsp.catalog.terms import Budget, Flight, FrequencyCap, Goal, GoalKind
from dsp.events.schema import Event, Notice, decode
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform, Secret
from dsp.snapshot.codec import encode
from dsp.stream.local import LocalEventLog
from tests.servers import free_port
from tests.waiting import until

CONFIG = Path(__file__).parents[3] / "config"
ROOT = Path(__file__).parents[3]
CLOCK = SystemClock()
_Event = TypeVar("_Event", bound=Event)
LANDING = "https://shop.example/landing?from=ad"


def catalogue(
    status: Status = Status.ACTIVE, daily_micros: int | None = None, caps: tuple[FrequencyCap, ...] = ()
) -> Catalogue:
    """One advertiser whose line item 10 bids 5.00 CPM for 300x250 banners, and line item 11 for video."""
    flight = Flight(start_ms=0)
    active = Status.ACTIVE
    goal = Goal(kind=GoalKind.CPM, target_micros=5_000_000)
    return Catalogue(
        advertisers=(Advertiser(id=1, name="Shop", domain="shop.example", status=active),),
        campaigns=(Campaign(id=2, name="All year", advertiser_id=1, flight=flight, status=active),),
        line_items=(
            LineItem(
                id=10,
                name="Banners",
                campaign_id=2,
                goal=goal,
                flight=flight,
                status=status,
                budget=Budget(daily_micros=daily_micros),
                frequency_caps=caps,
            ),
            LineItem(id=11, name="Films", campaign_id=2, goal=goal, flight=flight, status=active),
        ),
        creatives=(
            Creative(
                id=100,
                name="300x250",
                line_item_id=10,
                format=MediaFormat.BANNER,
                width=300,
                height=250,
                landing_url=LANDING,
                markup="<b>buy</b>",
                status=active,
            ),
            Creative(
                id=101,
                name="film",
                line_item_id=11,
                format=MediaFormat.VIDEO,
                width=640,
                height=360,
                duration_seconds=15,
                mime="video/mp4",
                landing_url=LANDING,
                markup="https://cdn.shop.example/film.mp4",
                protocols=(2, 3),
                status=active,
            ),
        ),
        conversion_rules=(ConversionRule(id=5, name="Purchase", advertiser_id=1, value_micros=9, status=active),),
    )


def bid_request(auction_id: str = "a1", **fields: Any) -> dict[str, Any]:
    """A banner request that the catalogue can serve."""
    imp = {"id": "1", "banner": {"w": 300, "h": 250}, "bidfloor": 1.0, "bidfloorcur": "USD"}
    return {
        "id": auction_id,
        "imp": [imp],
        "site": {"domain": "news.example", "id": "s1", "publisher": {"id": "p1"}},
        "device": {"ua": "Mozilla/5.0", "ip": "203.0.113.0", "geo": {"country": "USA"}},
        "user": {"id": "u1"},
        "tmax": 10_000,  # so that nothing is late on a busy machine
        "at": 1,
        "cur": ["USD"],
        **fields,
    }


@dataclass
class World:
    """A data directory, and a bidder process on it."""

    directory: Path
    bid_port: int
    notice_port: int
    admin_port: int
    session: aiohttp.ClientSession
    extra: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    published: int = 0

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def platform(self) -> Platform:
        """Return the settings that the bidder and the workers share."""
        return Platform(data_dir=str(self.data), cache_url=Secret(self.extra.get("DSP_PLATFORM_CACHE_URL", "")))

    @property
    def exchanges(self) -> Path:
        return self.directory / "exchanges"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DSP_")}
        return {
            **kept,
            "DSP_PLATFORM_DATA_DIR": str(self.data),
            "DSP_PLATFORM_EXCHANGES_DIR": str(self.exchanges),
            "DSP_BIDDER_BID_PORT": str(self.bid_port),
            "DSP_BIDDER_NOTICE_PORT": str(self.notice_port),
            "DSP_BIDDER_ADMIN_PORT": str(self.admin_port),
            "DSP_BIDDER_DRAIN_WAIT_MS": "100",
            "DSP_BIDDER_REQUEST_SAMPLE_RATE": "1",
            "DSP_BIDDER_LEASE_SYNC_INTERVAL_MS": "100",
            "DSP_BIDDER_FIRST_PRICE_EXPLORE_SHARE": "0",  # a price is then known beforehand
            **self.extra,
        }

    async def publish(self, wanted: Catalogue) -> None:
        """Do what the snapshot worker does: limits first, then the snapshot."""
        self.published += 1
        leases, blobs = lease_store(self.platform), blob_store(self.platform)
        await leases.open()
        try:
            await leases.set_limits(
                [Limit(one.id, one.campaign_id, one.budget.daily_micros, None, None, None) for one in wanted.line_items]
            )
        finally:
            await leases.close()
        try:
            await blobs.put("snapshot", encode(wanted, f"v{self.published}", CLOCK.now_ms()))
        finally:
            await blobs.close()

    async def start(self) -> None:
        with (self.directory / "bidder.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bidder", cwd=ROOT, env=self.environment, stderr=log
            )
        await until(self.alive)

    async def alive(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(self.log())
        try:
            await self.status(self.bid_port, "/ready")  # the last port to open
            return await self.status(self.admin_port, "/healthz") == 200
        except aiohttp.ClientConnectionError:
            return False

    async def ready(self) -> bool:
        return await self.status(self.admin_port, "/readyz") == 200

    async def bidding(self) -> bool:
        """Money has been leased: a probe gets a bid."""
        return (await self.bid(bid_request("probe")))[0] == 200

    async def offer(self, auction_id: str) -> dict[str, Any]:
        """Return the bid for a banner; idle leases go back, so the first requests after a pause may find no money."""

        async def bid() -> dict[str, Any]:
            status, answer = await self.bid(bid_request(auction_id))
            return only_bid(answer) if status == 200 else {}

        offered: dict[str, Any] = await until(bid)
        return offered

    async def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60.0)

    def log(self) -> str:
        return (self.directory / "bidder.log").read_text()

    async def status(self, port: int, path: str, method: str = "GET") -> int:
        async with self.session.request(method, f"http://127.0.0.1:{port}{path}", allow_redirects=False) as answer:
            await answer.read()
            return answer.status

    async def bid(self, body: Any, exchange: str = "openrtb", **headers: str) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.bid_port}/openrtb2/{exchange}"
        async with self.session.post(url, data=data, headers=headers) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else {}

    async def notify(self, url: str) -> int:
        async with self.session.get(url, allow_redirects=False) as answer:
            await answer.read()
            return answer.status

    async def metric(self, name: str, **labels: str) -> float:
        """Return a metric summed over the series that carry the labels."""
        async with self.session.get(f"http://127.0.0.1:{self.admin_port}/metrics") as answer:
            text = await answer.text()
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if found and all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
                total += float(found[2])
        return total

    async def notices(self) -> list[Notice]:
        """Return every notice in the event log."""
        return await self.events("notices", Notice)

    async def events(self, topic: str, kind: type[_Event]) -> list[_Event]:
        """Return every event of a kind in a topic of the log."""
        log = LocalEventLog(self.data / "log", CLOCK)
        await log.open()
        found: list[_Event] = []
        try:
            position: dict[int, int] = {}
            while True:
                batch = await log.read(topic, position, 1_000)
                found += [event for record in batch.records if isinstance(event := decode(record.value), kind)]
                position = batch.position
                if batch.end:
                    return found
        finally:
            await log.close()


@asynccontextmanager
async def world(directory: Path, **extra: str) -> AsyncIterator[World]:
    """A world whose bidder is stopped at the end, and whose log holds no traceback."""
    bid, notice, admin = free_port(), free_port(), free_port()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        made = World(directory, bid, notice, admin, session, extra)
        (made.data / "blobs").mkdir(parents=True)
        for profiles in (CONFIG / "exchanges", CONFIG / "demo" / "exchanges"):
            shutil.copytree(profiles, made.exchanges, dirs_exist_ok=True)
        try:
            yield made
        finally:
            if made.process is not None and made.process.returncode is None:
                await made.stop()
        assert "Traceback" not in made.log()


async def drive(bidder: World, stop: asyncio.Event, statuses: list[int], closed: list[int]) -> None:
    """Send requests one after the other on a kept-alive connection, reconnecting only when told to."""
    number = 0
    while not stop.is_set():
        number += 1
        url = f"http://127.0.0.1:{bidder.bid_port}/openrtb2/openrtb"
        async with bidder.session.post(url, json=bid_request(f"d{number}")) as answer:
            await answer.read()
            statuses.append(answer.status)
            if answer.headers.get("Connection", "").lower() == "close":
                closed.append(number)
                return


def price_at(url: str, price: str) -> str:
    """Substitute the price as the exchange does."""
    return url.replace("${AUCTION_PRICE}", price)


def only_bid(answer: dict[str, Any]) -> dict[str, Any]:
    (seat,) = answer["seatbid"]
    (bid,) = seat["bid"]
    return dict(bid)


def link(markup: str, kind: str) -> str:
    """Return the URL of our notice of a kind in an ad's markup."""
    found = re.search(rf"""http://[^"'\]]*/{kind}\?[^"'\]]*""", markup)
    assert found, markup
    return unescape(found[0])
