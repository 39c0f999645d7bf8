"""One seed's market: campaigns whose days end midway, and auctions that are the same with faults and without."""

from functools import lru_cache
from random import Random
from typing import NamedTuple

import msgspec

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, LineItem
from dsp.catalog.status import Status
from dsp.catalog.terms import Budget, Flight, Goal, GoalKind, PacingMode
from dsp.kernel.money import Micros
from loadtest.draw import Draw
from loadtest.faults.platform import Owner

#: Twelve minutes before midnight in New York; the day that begins is an hour short there.
START_MS = 1_741_495_680_000
#: Two "days" of twelve minutes, so that a minute without the grantor is a twelfth of a day and not a quarter.
DURATION_MS = 1_440_000
AUCTIONS_PER_SECOND = 5.5
#: What competitors bid, and what an impression is worth to us: micros per thousand, log-normal.
MARKET_MEDIAN_MICROS_CPM = 2_000_000
VALUE_MEDIAN_MICROS_CPM = 2_500_000
TTLS_MS = (30_000, 45_000)

_FLIGHT = Flight(start_ms=START_MS, end_ms=START_MS + DURATION_MS)
_GOAL = Goal(kind=GoalKind.CPM, target_micros=VALUE_MEDIAN_MICROS_CPM)
_ZONES = {1: "America/New_York", 2: "Asia/Kolkata", 3: "Europe/Berlin"}
_CAMPAIGNS = {
    1: Budget(daily_micros=1_400_000, total_micros=2_700_000),
    2: Budget(total_micros=1_900_000),
    3: Budget(),
}
#: Campaign, budget, mode. The last has more money than there is to buy.
_LINE_ITEMS = {
    1: (1, Budget(daily_micros=770_000), PacingMode.EVEN),
    2: (1, Budget(daily_micros=900_000, total_micros=1_650_000), PacingMode.AHEAD),
    3: (2, Budget(total_micros=1_800_000), PacingMode.EVEN),
    4: (3, Budget(daily_micros=50_000_000), PacingMode.EVEN),
}
OWNERS = {number: Owner(campaign, _ZONES[campaign]) for number, (campaign, _, _) in _LINE_ITEMS.items()}
CAMPAIGN_OF = {number: owner.campaign_id for number, owner in OWNERS.items()}


class Auction(NamedTuple):
    """One impression for sale, and everything chance will do with it."""

    id: str
    lot: int
    at_ms: int
    slot: int  # of the balancer's turn
    line_item_ids: tuple[int, ...]
    values_micros_cpm: tuple[float, ...]
    market_micros_cpm: Micros  # the best competing bid
    floor_micros_cpm: Micros
    first_price: bool
    ttl_ms: int
    notice_delay_ms: int
    notice_slot: int
    silent: bool  # a loss is never reported


@lru_cache(maxsize=1)  # with faults, then without
def auctions(seed: int) -> tuple[Auction, ...]:
    """Return the auctions of a seed, in order."""
    chance = Random(f"market {seed}")  # noqa: S311 - to be reproduced, not kept secret
    found: list[Auction] = []
    at_ms = 0.0
    while True:
        at_ms += chance.expovariate(AUCTIONS_PER_SECOND / 1_000)
        if at_ms >= DURATION_MS:
            return tuple(found)
        wanted = sorted(chance.sample(sorted(_LINE_ITEMS), chance.choice((1, 2, 3))))
        quality = chance.lognormvariate(0.0, 0.4)
        found.append(
            Auction(
                id=f"auction-{len(found)}",
                lot=Draw("lot", seed, len(found)).integer(1 << 64),
                at_ms=START_MS + int(at_ms),
                slot=chance.randrange(1 << 20),
                line_item_ids=tuple(wanted),
                values_micros_cpm=tuple(
                    VALUE_MEDIAN_MICROS_CPM * quality * chance.lognormvariate(0.0, 0.4) for _ in wanted
                ),
                market_micros_cpm=int(MARKET_MEDIAN_MICROS_CPM * quality * chance.lognormvariate(0.0, 0.5)),
                floor_micros_cpm=int(MARKET_MEDIAN_MICROS_CPM * chance.uniform(0.05, 0.4)),
                first_price=chance.random() < 0.5,
                ttl_ms=chance.choice(TTLS_MS),
                notice_delay_ms=int(chance.lognormvariate(6.0, 0.8)),  # 0.4 seconds, at times many
                notice_slot=chance.randrange(1 << 20),
                silent=chance.random() < 0.15,
            )
        )


def catalogue() -> Catalogue:
    """Return the campaigns as they are at the start."""
    return Catalogue(
        advertisers=tuple(
            Advertiser(id=number, name=zone, domain="a.example", timezone=zone, status=Status.ACTIVE)
            for number, zone in _ZONES.items()
        ),
        campaigns=tuple(
            Campaign(
                id=number, name="c", advertiser_id=number, budget=budget, flight=_FLIGHT, status=Status.ACTIVE
            )
            for number, budget in _CAMPAIGNS.items()
        ),
        line_items=tuple(
            LineItem(
                id=number, name="l", campaign_id=campaign, goal=_GOAL, budget=budget, flight=_FLIGHT, pacing=mode,
                status=Status.ACTIVE,
            )
            for number, (campaign, budget, mode) in _LINE_ITEMS.items()
        ),
    )  # fmt: skip


def with_line_item(found: Catalogue, number: int, **changes: object) -> Catalogue:
    """Return the catalogue with one line item changed."""
    line_items = tuple(msgspec.structs.replace(one, **changes) if one.id == number else one for one in found.line_items)
    return msgspec.structs.replace(found, line_items=line_items)


def with_campaign(found: Catalogue, number: int, **changes: object) -> Catalogue:
    """Return the catalogue with one campaign changed."""
    campaigns = tuple(msgspec.structs.replace(one, **changes) if one.id == number else one for one in found.campaigns)
    return msgspec.structs.replace(found, campaigns=campaigns)
