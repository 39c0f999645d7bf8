"""A small synthetic world with known tastes, and the training log that it leaves, written as the worker writes it."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, Creative, LineItem, MediaFormat
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight, Goal, GoalKind
from dsp.events.schema import BidFacts, Notice, NoticeKind
from dsp.openrtb.opportunity import DeviceKind, Opportunity
from dsp.snapshot.build import Snapshot, build
from dsp.workers.hourly import HourlyFiles
from dsp.workers.training_rows import BIDS_SCHEMA, NOTICES_SCHEMA, bid_rows, notice_rows
from models.features.columns import FEATURE_HASH
from models.features.encode import ad_rows, request_row
from models.features.logged import pack
from models.training import nightly
from models.training.config import TrainingConfig
from tests.notices import BID, FACTS, decision

START_MS = 1_750_000_000_000
VERTICALS = ("IAB2", "IAB9", "IAB18", "IAB20")
SEGMENTS = ("auto", "gamer", "fashion", "travel")
SITES = ("road.example", "play.example", "wear.example", "wander.example", "news.example")

TEMPLATE = Opportunity(
    auction_id="a", imp_id="1", exchange="demo-first", at_ms=START_MS, lots=blake2b(digest_size=8), test=False,
    first_price=True, tmax_ms=100,
    formats=frozenset({"banner"}), sizes=((300, 250),), video=None, native_request="", mimes=frozenset(),
    apis=frozenset(), blocked_attributes=frozenset(), position=1, interstitial=False, rewarded=False, secure=True,
    floor_micros_cpm=100_000, placement="top", deals=(), private_auction=False, inventory="site",
    domain=SITES[0], bundle="", publisher="pub", categories=frozenset({"IAB2-3"}),
    content_language="en", device=DeviceKind.PHONE, os="ios", os_version="17", browser="safari", make="apple",
    model="iphone", language="en", connection=2, country="USA", region="USA-CA", city="USA-los angeles", postcode="",
    utc_offset_minutes=-480, user_key="user", segments=frozenset(), may_store=True, may_personalise=True,
    blocked_categories=frozenset(), blocked_advertisers=frozenset(), blocked_apps=frozenset(),
    languages_allowed=frozenset(), currency="USD", currency_rate=1.0,
)  # fmt: skip


def catalogue() -> Catalogue:
    """Return four advertisers of different verticals with two line items and two creatives each."""
    active, flight = Status.ACTIVE, Flight(start_ms=0)
    items, creatives = [], []
    for number in range(8):
        goal = Goal(kind=tuple(GoalKind)[number % 3], target_micros=1_000_000)
        items.append(
            LineItem(id=100 + number, name="l", status=active, campaign_id=10 + number // 2, goal=goal, flight=flight)
        )
        creatives += [
            Creative(
                id=1_000 + 2 * number + side, name="c", status=active, line_item_id=100 + number,
                format=MediaFormat.BANNER, landing_url="https://ad.example/", markup="<a></a>", width=300, height=250,
            )
            for side in (0, 1)
        ]  # fmt: skip
    return Catalogue(
        advertisers=tuple(
            Advertiser(id=1 + number, name="a", status=active, domain=f"a{number}.example", categories=(vertical,))
            for number, vertical in enumerate(VERTICALS)
        ),
        campaigns=tuple(
            Campaign(id=10 + number, name="c", status=active, advertiser_id=1 + number, flight=flight)
            for number in range(4)
        ),
        line_items=tuple(items),
        creatives=tuple(creatives),
    )


@dataclass
class World:
    """Draws impressions: who sees which creative where, and with what chance of a click."""

    snapshot: Snapshot
    taste: float = 1.6  # what segment and site do for a fitting ad, log odds

    def draw(self, rng: np.random.Generator, at_ms: int) -> tuple[Opportunity, int, float]:
        """Return an opportunity, the creative shown (its index in the snapshot) and the chance of a click."""
        vertical, site = int(rng.integers(4)), int(rng.integers(5))
        device = DeviceKind.PHONE if rng.random() < 0.6 else DeviceKind.DESKTOP
        position = int(rng.choice([1, 3]))
        opportunity = msgspec.structs.replace(
            TEMPLATE,
            auction_id=f"{at_ms}",
            at_ms=at_ms,
            domain=SITES[site],
            categories=frozenset({VERTICALS[site] + "-1"}) if site < 4 else frozenset({"IAB12"}),
            device=device,
            position=position,
            segments=frozenset({SEGMENTS[vertical], "adult"}),
            utc_offset_minutes=int(rng.choice([-480, 0, 60])),
        )
        creative = int(rng.integers(len(self.snapshot.creatives)))
        advertiser = self.snapshot.advertisers[int(self.snapshot.creative_line_items[creative])].id - 1
        logit = -4.0 + self.taste * (advertiser == vertical) + self.taste * (advertiser == site)
        logit += 0.7 * (position == 1) + 0.4 * (device is DeviceKind.PHONE)
        return opportunity, creative, float(1 / (1 + np.exp(-logit)))


@pytest.fixture(scope="session")
def world() -> World:
    return World(build(catalogue(), "s1", START_MS))


Writer = Callable[..., int]


@pytest.fixture(scope="session")
def write_log(world: World) -> Writer:
    """Return a function that writes `count` won impressions, 10 ms apart, below `root`; it returns their clicks."""
    rows = ad_rows(world.snapshot)

    def write(
        root: Path,
        count: int,
        start_ms: int = START_MS,
        seed: int = 1,
        conversion_rate: float = 0.2,
        click_rate_of: Callable[[float], float] = lambda rate: rate,
        feature_hash: str = FEATURE_HASH,
    ) -> int:
        rng = np.random.default_rng(seed)
        bids, notices = [], []
        clicks = 0
        for number in range(count):
            at_ms = start_ms + 10 * number
            opportunity, creative, rate = world.draw(rng, at_ms)
            facts = _facts(world, f"{seed}-{number}", opportunity, creative)
            features = {"ad_features": pack(rows[creative]), "request_features": pack(request_row(opportunity, None))}
            bid = msgspec.structs.replace(BID, facts=facts, **features)
            bids += [(at_ms, row) for row in bid_rows(decision(bid, feature_hash=feature_hash))]
            kinds = [NoticeKind.BILL, NoticeKind.IMPRESSION]
            if rng.random() < click_rate_of(rate):
                clicks += 1
                kinds += [NoticeKind.CLICK, NoticeKind.CLICK]  # some click twice
                kinds += [NoticeKind.CONVERSION] if rng.random() < conversion_rate else []
            for step, kind in enumerate(kinds):
                notice = Notice(kind=kind, facts=facts, at_ms=at_ms + 1 + step, cost_micros=900 * (step == 0))
                notices += [(notice.at_ms, row) for row in notice_rows(notice)]
        first = start_ms - START_MS
        HourlyFiles(root / "bids", BIDS_SCHEMA).write(0, first, first + count - 1, bids)
        HourlyFiles(root / "notices", NOTICES_SCHEMA).write(0, first, first + len(notices), notices)
        return clicks

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, write_log: Writer) -> Path:
    """A data directory with a log of 8,000 impressions and a champion trained on it. Change only copies of it."""
    data_dir = tmp_path_factory.mktemp("data")
    write_log(data_dir / "training", 8_000)
    config = TrainingConfig(maturity_seconds=0.0, rounds_max=40, families=("ftrl", "gbdt"))  # with or without PyTorch
    outcome = nightly.run(data_dir, START_MS + 82_000, config, lambda step, found: None)
    assert outcome.result == "published", outcome.reasons
    return data_dir


def _facts(world: World, bid_id: str, opportunity: Opportunity, creative: int) -> BidFacts:
    shown = world.snapshot.creatives[creative]
    row = int(world.snapshot.creative_line_items[creative])
    return msgspec.structs.replace(
        FACTS, exchange=opportunity.exchange, auction_id=opportunity.auction_id, bid_id=bid_id,
        advertiser_id=world.snapshot.advertisers[row].id, campaign_id=world.snapshot.campaigns[row].id,
        line_item_id=shown.line_item_id, creative_id=shown.id, price_micros_cpm=1_000_000, cost_micros_max=1_000,
        bid_at_ms=opportunity.at_ms, expires_at_ms=opportunity.at_ms + 60_000,
    )  # fmt: skip
