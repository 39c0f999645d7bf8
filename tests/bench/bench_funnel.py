"""What the funnel costs: recall, select and pricing over seeded catalogues, in microseconds of this machine.

Run it by hand: python tests/bench/bench_funnel.py [SIZE ...]. It prints one JSON line a catalogue.
"""

import json
import sys
import timeit
from collections.abc import Callable
from random import Random
from time import perf_counter

import numpy as np

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, Creative, LineItem, MediaFormat
from dsp.catalog.exposures import pack
from dsp.catalog.reasons import Exclusion
from dsp.catalog.rules import Clause, Dimension, Targeting
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight, FrequencyCap, Goal, GoalKind
from dsp.catalog.user import Exposure, UserRecord
from dsp.funnel import explain, select
from dsp.openrtb.opportunity import DeviceKind, Opportunity
from dsp.pacing.controller import ControlColumns
from dsp.pricing.bid import price
from dsp.pricing.value import value_micros_cpm
from dsp.snapshot.build import build
from dsp.targeting import bitmap
from dsp.targeting.groups import Asked

NOW_MS = 1_750_068_000_000
LIMIT = 16
SMALL = 20

#: Twelve dimensions: their values, and the share of line items with a clause on each.
DIMENSIONS: dict[Dimension, tuple[list[str], float]] = {
    Dimension.EXCHANGE: (["alpha", "beta", "gamma"], 0.5),
    Dimension.COUNTRY: (["USA", "GBR", "DEU", "FRA", "JPN"], 0.5),
    Dimension.REGION: ([f"USA-{number}" for number in range(50)], 0.2),
    Dimension.CITY: ([f"USA-city {number}" for number in range(500)], 0.1),
    Dimension.DEVICE: ([kind.value for kind in DeviceKind], 0.5),
    Dimension.OS: (["ios", "android", "windows"], 0.5),
    Dimension.BROWSER: (["chrome", "safari", "firefox"], 0.5),
    Dimension.INVENTORY: (["site", "app"], 0.5),
    Dimension.DOMAIN: ([f"site{number}.example" for number in range(300)], 0.2),
    Dimension.CATEGORY: ([f"IAB{number}" for number in range(1, 24)], 0.5),
    Dimension.SEGMENT: ([f"s{number}" for number in range(200)], 0.3),
    Dimension.LANGUAGE: (["en", "de", "fr"], 0.5),
}


def clause(random: Random, values: list[str]) -> Clause:
    most = max(1, len(values) // 2) if len(values) < 30 else 20
    some = tuple(random.sample(values, random.randint(1, most)))
    return Clause(include=some) if random.random() < 0.6 else Clause(exclude=some[: max(1, len(some) // 4)])


def catalogue(size: int, seed: int = 1) -> Catalogue:
    """A small catalogue's line items target little, so that ten of twenty are candidates."""
    random = Random(seed)
    share = 0.15 if size <= SMALL else 1.0
    advertisers = tuple(
        Advertiser(id=number, name="a", status=Status.ACTIVE, domain=f"brand{number}.example",
                   categories=(f"IAB{number % 20 + 1}-1",))
        for number in range(1, max(3, size // 50) + 1)
    )  # fmt: skip
    campaigns = tuple(
        Campaign(id=number, name="c", status=Status.ACTIVE, advertiser_id=random.randint(1, len(advertisers)),
                 flight=Flight(start_ms=0))
        for number in range(1, max(6, size // 10) + 1)
    )  # fmt: skip
    line_items = tuple(
        LineItem(
            id=number, name="l", status=Status.ACTIVE, campaign_id=random.randint(1, len(campaigns)),
            goal=Goal(kind=random.choice(list(GoalKind)), target_micros=random.randint(100_000, 5_000_000)),
            flight=Flight(start_ms=0),
            targeting=Targeting(clauses={
                name: clause(random, values)
                for name, (values, chance) in DIMENSIONS.items() if random.random() < chance * share
            }),
            frequency_caps=(FrequencyCap(impressions=3, window_seconds=86_400),) if random.random() < 0.5 else (),
        )
        for number in range(1, size + 1)
    )  # fmt: skip
    owners = [item.id for item in line_items for _ in range(random.randint(1, 3))]
    creatives = []
    for number, owner in enumerate(owners, start=1):
        width, height = random.choice(((300, 250), (300, 250), (728, 90), (320, 50)))
        creatives.append(
            Creative(id=number, name="c", status=Status.ACTIVE, line_item_id=owner, format=MediaFormat.BANNER,
                     landing_url="https://brand.example/", markup="<b>", width=width, height=height,
                     attributes=(random.choice((1, 2, 3)),))
        )  # fmt: skip
    return Catalogue(advertisers=advertisers, campaigns=campaigns, line_items=line_items, creatives=tuple(creatives))


def impression(exchange: str = "alpha") -> Opportunity:
    return Opportunity(
        auction_id="auction", imp_id="1", exchange=exchange, at_ms=NOW_MS, test=False, first_price=True, tmax_ms=100,
        formats=frozenset({"banner"}), sizes=((300, 250), (320, 50)), video=None, native_request="",
        mimes=frozenset(), apis=frozenset(), blocked_attributes=frozenset({3}), position=1, interstitial=False,
        rewarded=False, secure=True, floor_micros_cpm=100_000, placement="top", deals=(), private_auction=False,
        display_manager="", inventory="site", domain="site5.example", bundle="", inventory_id="7", publisher="p1",
        categories=frozenset({"IAB1", "IAB9-3"}), content_language="en", device=DeviceKind.PHONE, os="ios",
        os_version="17", browser="safari", make="", model="", language="en", connection=2, country="USA",
        region="USA-5", city="USA-city 7", postcode="", utc_offset_minutes=0, user_key="u",
        segments=frozenset({"s1", "s7", "s9"}), may_store=True, may_personalise=True,
        blocked_categories=frozenset({"IAB7", "IAB8-5", "IAB25", "IAB26"}),
        blocked_advertisers=frozenset({"brand2.example", "rival.example"}), blocked_apps=frozenset(),
        languages_allowed=frozenset(), currency="USD", currency_rate=1.0,
    )  # fmt: skip


def best_us(work: Callable[[], object]) -> float:
    return round(min(timeit.repeat(work, number=50, repeat=100)) / 50 * 1e6, 1)


def measure(size: int) -> dict[str, float]:
    whole = catalogue(size)
    began = perf_counter()
    snapshot = build(whole, "v1", 0)
    built_ms = (perf_counter() - began) * 1e3
    controls = ControlColumns(np.ones(size), np.full(size, np.inf), 0)
    one, nowhere = impression(), impression("nowhere")
    user = UserRecord(pack(Exposure(str(n), NOW_MS - n, 1, 1, n) for n in range(10)))
    index, ways = snapshot.index, snapshot.index.deals.ways(one, "")

    def recall(opportunity: Opportunity) -> bitmap.Words:
        asked = Asked(opportunity, opportunity.segments, ways)
        return bitmap.intersection((index.live(NOW_MS), *index.rows(asked)))

    chosen = select(snapshot, one, None, controls, NOW_MS, LIMIT)
    if isinstance(chosen, Exclusion):
        raise SystemExit(f"nothing is left of {size} line items: {chosen.value}")
    rows = chosen.line_items
    rate = np.full(len(rows), 0.01)

    def priced() -> object:
        value = value_micros_cpm(snapshot.goal_kind[rows], snapshot.target_micros[rows], rate, rate)
        low, high = snapshot.bid_min_micros_cpm[rows], snapshot.bid_max_micros_cpm[rows]
        floors, first, fixed = chosen.floors_micros_cpm, chosen.first_price, chosen.fixed_price
        return price(value, controls.multiplier[rows], floors, first, 0.8, low, high, fixed)

    def explained() -> object:
        return explain(snapshot, one, user, controls, NOW_MS)

    return {
        "line_items": size,
        "recalled": len(bitmap.positions(recall(one))),
        "candidates": len(rows),
        "build_ms": round(built_ms, 1),
        "recall_us": best_us(lambda: recall(one)),
        "recall_and_rows_us": best_us(lambda: bitmap.positions(recall(one))),
        "select_us": best_us(lambda: select(snapshot, one, None, controls, NOW_MS, LIMIT)),
        "select_known_user_us": best_us(lambda: select(snapshot, one, user, controls, NOW_MS, LIMIT)),
        "select_other_exchange_us": best_us(lambda: select(snapshot, nowhere, None, controls, NOW_MS, LIMIT)),
        "value_and_price_us": best_us(priced),
        "explain_ms": round(min(timeit.repeat(explained, number=1, repeat=3)) * 1e3, 2),
    }  # fmt: skip


if __name__ == "__main__":
    for wanted in [int(argument) for argument in sys.argv[1:]] or [SMALL, 10_000, 50_000]:
        print(json.dumps(measure(wanted)), flush=True)
