"""What is to be delivered: three advertisers in three time zones, each order with the traffic it needs or without."""

from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from dsp.kernel.clock import MS_PER_DAY

#: The local day that is measured, a Tuesday; it begins in Iran and ends in Canada.
DATE = (2025, 6, 10)
ZONES = {"acadia": "America/Halifax", "spree": "Europe/Berlin", "alborz": "Asia/Tehran"}
#: Daily budgets of campaigns, where the line items share one; micros.
CAMPAIGN_BUDGETS = {"spree-shared": 3_000_000}

_BANNERS = ((300, 250), (728, 90), (160, 600), (970, 250), (320, 50))
_EVERY_DAY = range(7)


class Order(NamedTuple):
    """One line item. Budgets are micros; `total` is for `days` from the measured one on."""

    name: str
    advertiser: str
    campaign: str
    kind: str
    target: int
    targeting: dict[str, list[str]]
    daily: int | None = None
    total: int | None = None
    days: int = 3
    pacing: str = "even"
    hours: tuple[tuple[int, int], ...] = ()
    media: str = "banner"
    #: What decides how much is spent: "plan", "traffic" where there is too little of it, or "campaign".
    bound: str = "plan"


ORDERS = (
    Order("acadia-reach", "acadia", "acadia-brand", "cpm", 4_000_000, {"country": ["USA"]}, daily=6_000_000),
    Order("acadia-film", "acadia", "acadia-brand", "cpm", 12_000_000, {"country": ["USA", "GBR"]},
          total=15_000_000, media="video"),
    Order("acadia-office", "acadia", "acadia-sales", "cpc", 500_000, {"country": ["USA"], "inventory": ["site"]},
          daily=3_000_000, hours=((8, 12), (13, 20))),
    Order("acadia-apps", "acadia", "acadia-sales", "cpa", 8_000_000, {"country": ["USA", "GBR"], "inventory": ["app"]},
          daily=4_000_000),
    Order("spree-shop", "spree", "spree-shared", "cpm", 4_000_000, {"country": ["DEU", "FRA"], "inventory": ["site"]},
          daily=4_000_000, bound="campaign"),
    Order("spree-apps", "spree", "spree-shared", "cpm", 4_000_000, {"country": ["DEU", "FRA"], "inventory": ["app"]},
          bound="campaign"),
    Order("spree-ahead", "spree", "spree-solo", "cpm", 4_500_000, {"country": ["GBR"]}, total=3_000_000, days=1,
          pacing="ahead"),
    Order("spree-clicks", "spree", "spree-solo", "cpc", 500_000, {"country": ["DEU", "FRA"]}, daily=3_000_000),
    Order("spree-niche", "spree", "spree-solo", "cpm", 5_000_000, {"category": ["IAB10"]}, daily=30_000_000,
          bound="traffic"),
    Order("alborz-reach", "alborz", "alborz-all", "cpm", 4_000_000, {"device": ["phone"]}, daily=5_000_000),
    Order("alborz-evening", "alborz", "alborz-all", "cpm", 4_500_000, {"device": ["desktop"]}, total=3_000_000, days=1,
          hours=((17, 24),)),
    Order("alborz-cheap", "alborz", "alborz-all", "cpc", 15_000, {"country": ["USA"]}, daily=5_000_000,
          bound="traffic"),
)  # fmt: skip


def midnight_ms(advertiser: str) -> int:
    """Return when the measured day begins for an advertiser."""
    return int(datetime(*DATE, tzinfo=ZoneInfo(ZONES[advertiser])).timestamp()) * 1_000


def tables(orders: tuple[Order, ...] = ORDERS) -> dict[str, Any]:
    """Return the catalogue as dsp.store.load takes it."""
    campaigns = {order.campaign: order.advertiser for order in orders}
    advertisers = {order.advertiser for order in orders}
    return {
        "advertiser": [
            _active(one, domain=f"{one}.example", timezone=ZONES[one], categories=["IAB2"])
            for one in sorted(advertisers)
        ],
        "campaign": [
            _active(
                one,
                advertiser=advertiser,
                flight=_flight(advertiser, 3),
                budget={"daily_micros": CAMPAIGN_BUDGETS[one]} if one in CAMPAIGN_BUDGETS else {},
            )
            for one, advertiser in campaigns.items()
        ],
        "line_item": [_line_item(order) for order in orders],
        "creative": [creative for order in orders for creative in _creatives(order)],
        "conversion_rule": [_active(f"{one}-sale", advertiser=one) for one in sorted(advertisers)],
    }


def _active(name: str, **fields: Any) -> dict[str, Any]:
    return {"external_id": name, "name": name, "status": "active", **fields}


def _flight(advertiser: str, days: int) -> dict[str, int]:
    begin_ms = midnight_ms(advertiser)
    return {"start_ms": begin_ms, "end_ms": begin_ms + days * MS_PER_DAY}


def _line_item(order: Order) -> dict[str, Any]:
    clauses = {name: {"include": values} for name, values in order.targeting.items()}
    budget = {"daily_micros": order.daily, "total_micros": order.total}
    return _active(
        order.name,
        campaign=order.campaign,
        goal={"kind": order.kind, "target_micros": order.target},
        budget={name: micros for name, micros in budget.items() if micros is not None},
        flight=_flight(order.advertiser, order.days),
        pacing=order.pacing,
        targeting={"clauses": {**clauses, "format": {"include": [order.media]}}},
        dayparts=[
            {"weekday": weekday, "start_hour": begin, "end_hour": end}
            for weekday in _EVERY_DAY
            for begin, end in order.hours
        ],
    )


def _creatives(order: Order) -> list[dict[str, Any]]:
    shared = {"line_item": order.name, "landing_url": f"https://{order.advertiser}.example/{order.name}"}
    if order.media == "video":
        film = {"width": 640, "height": 360, "duration_seconds": 15, "mime": "video/mp4", "protocols": [2, 3, 5, 6]}
        url = f"https://cdn.{order.advertiser}.example/{order.name}.mp4"
        return [_active(f"{order.name}-film", format="video", markup=url, **film, **shared)]
    return [
        _active(
            f"{order.name}-{width}x{height}",
            format="banner",
            width=width,
            height=height,
            markup=f'<img src="https://cdn.{order.advertiser}.example/{width}x{height}.jpg" alt="">',
            **shared,
        )
        for width, height in _BANNERS
    ]
