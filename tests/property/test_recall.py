"""Bitmaps against the rules read aloud: a line-by-line evaluator of targeting and blocks, and of what select keeps."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, Creative, Deal, LineItem, MediaFormat
from dsp.catalog.exposures import pack, seen
from dsp.catalog.reasons import Exclusion
from dsp.catalog.rules import Clause, Dimension, Targeting
from dsp.catalog.status import Status
from dsp.catalog.terms import Daypart, Flight, FrequencyCap, Goal, GoalKind
from dsp.catalog.user import Exposure, UserRecord
from dsp.funnel import Explanation, Stage, explain, select
from dsp.openrtb.opportunity import DealOffer, DeviceKind, Opportunity, Video
from dsp.pacing.columns import ControlColumns, align
from dsp.snapshot.build import Snapshot, build

NOW_MS = 1_750_068_000_000
SEAT = "ours"
STORE = "https://play.google.com/store/apps/details?id="
SIZES = ((300, 250), (728, 90), (320, 50))
DOMAINS = ("a.example", "b.a.example", "c.example", "")
CATEGORIES = ("IAB1", "IAB1-1", "IAB2", "IAB2-3", "IAB9")
SEGMENTS = ("s1", "s2", "s3", "s4")
VALUES: dict[Dimension, tuple[str, ...]] = {
    Dimension.EXCHANGE: ("alpha", "beta"),
    Dimension.COUNTRY: ("USA", "CAN", "DEU"),
    Dimension.REGION: ("USA-CA", "USA-NY"),
    Dimension.CITY: ("USA-los angeles", "USA-new york"),
    Dimension.POSTCODE: ("USA-90210", "USA-10001"),
    Dimension.DEVICE: tuple(kind.value for kind in DeviceKind),
    Dimension.OS: ("ios", "android"),
    Dimension.BROWSER: ("chrome", "safari"),
    Dimension.FORMAT: ("banner", "video"),
    Dimension.SIZE: tuple(f"{width}x{height}" for width, height in SIZES),
    Dimension.INVENTORY: ("site", "app"),
    Dimension.DOMAIN: DOMAINS[:3],
    Dimension.BUNDLE: ("com.one", "com.two"),
    Dimension.PLACEMENT: ("top", "side"),
    Dimension.PUBLISHER: ("p1", "p2"),
    Dimension.CATEGORY: CATEGORIES,
    Dimension.SEGMENT: SEGMENTS,
    Dimension.LANGUAGE: ("en", "de"),
    Dimension.DEAL: ("d1", "d2", "d3"),
}


def some(random: Random, values: Iterable[Any], most: int) -> tuple[Any, ...]:
    values = list(values)
    return tuple(random.sample(values, random.randint(0, min(most, len(values)))))


def catalogue(random: Random, size: int, clause_chance: float) -> Catalogue:
    def status() -> Status:
        return random.choice((Status.PAUSED, Status.DRAFT)) if random.random() < 0.1 else Status.ACTIVE

    def flight() -> Flight:
        start_ms = NOW_MS + random.choice((-(10**7), -1, 0, 1)) if random.random() < 0.2 else 0
        return Flight(start_ms=start_ms, end_ms=random.choice((None, None, start_ms + 10**6)))

    def caps() -> tuple[FrequencyCap, ...]:
        return (FrequencyCap(impressions=random.randint(1, 2), window_seconds=60),) if random.random() < 0.2 else ()

    def clause(values: tuple[str, ...]) -> Clause:
        include = some(random, values, 2) if random.random() < 0.6 else ()
        return Clause(include=include, exclude=some(random, values, 1) if random.random() < 0.5 else ())

    def targeting() -> Targeting:
        clauses = {name: clause(values) for name, values in VALUES.items() if random.random() < clause_chance}
        audience = [some(random, SEGMENTS, 3) for _ in range(random.randint(1, 2))] if random.random() < 0.1 else ()
        return Targeting(clauses=clauses, audience=tuple(audience))

    def dayparts() -> tuple[Daypart, ...]:
        if random.random() < 0.8:
            return ()
        return (
            Daypart(weekday=random.randint(0, 1), start_hour=random.randint(0, 12), end_hour=random.randint(13, 24)),
        )

    zones = ("UTC", "America/New_York", "Asia/Kolkata")
    advertisers = tuple(
        Advertiser(
            id=number, name="a", status=status(), domain=f"{random.choice(('x.', ''))}brand{number}.example",
            timezone=random.choice(zones), categories=some(random, CATEGORIES, 1), frequency_caps=caps(),
        )
        for number in range(1, 4)
    )  # fmt: skip
    campaigns = tuple(
        Campaign(id=n, name="c", status=status(), advertiser_id=random.randint(1, 4), flight=flight(),
                 frequency_caps=caps())
        for n in range(1, 9)
    )  # fmt: skip
    line_items = tuple(
        LineItem(
            id=number * 7, name="l", status=status(), campaign_id=random.randint(1, 9), flight=flight(),
            goal=Goal(kind=random.choice(list(GoalKind)), target_micros=random.randint(1, 10**7)), dayparts=dayparts(),
            targeting=targeting(), frequency_caps=caps(),
        )
        for number in range(1, size + 1)
    )  # fmt: skip
    owners = [item.id for item in line_items for _ in range(random.choice((0, 1, 1, 2, 3)))]
    creatives = tuple(creative(random, number, owner, status()) for number, owner in enumerate(owners, start=1))
    deals = tuple(
        Deal(id=n, name="d", status=status(), exchange=random.choice(("alpha", "beta")), deal_id=f"d{n}")
        for n in (1, 2)
    )
    return Catalogue(
        advertisers=advertisers, campaigns=campaigns, line_items=line_items, creatives=creatives, deals=deals
    )


def creative(random: Random, number: int, line_item_id: int, status: Status) -> Creative:
    banner = random.random() < 0.7
    width, height = random.choice(SIZES)
    return Creative(
        id=number, name="c", status=status, line_item_id=line_item_id,
        markup=random.choice(("<b>", "<b>", "<script>", "<iframe>")), bitrate_kbps=random.choice((None, 400, 1500)),
        landing_url=f"{STORE}brand.app" if number % 10 == 0 else "https://brand.example/",
        format=MediaFormat.BANNER if banner else MediaFormat.VIDEO, width=width, height=height,
        duration_seconds=random.choice((None, 6, 15, 30)), mime=random.choice((None, None, "video/mp4", "image/png")),
        categories=some(random, CATEGORIES, 1), attributes=some(random, (1, 2, 500), 1), apis=some(random, (3, 5), 1),
        protocols=some(random, (2, 3, 7), 2), secure=random.random() < 0.8, language=random.choice((None, None, "de")),
    )  # fmt: skip


def impression(random: Random) -> Opportunity:
    def value(dimension: Dimension) -> str:
        return random.choice((*VALUES[dimension], "", "unheard of"))

    formats = frozenset(some(random, ("banner", "video"), 2)) or frozenset({"banner"})
    low, high = sorted((random.randint(0, 31), random.randint(0, 31)))
    required = frozenset(some(random, (6, 15), 1)) if random.random() < 0.3 else frozenset()
    video = Video(
        duration_seconds_min=low, duration_seconds_max=high, protocols=frozenset(some(random, (2, 3, 9), 2)),
        placement=None, skippable=False, durations_required=required,
        bitrate_kbps_min=random.choice((0, 0, 0, 401)), bitrate_kbps_max=random.choice((2_000, 2_000, 2_000, 1_499)),
        deliveries=frozenset(random.choice(((), (), (), (2, 3), (1,)))),
    )  # fmt: skip
    offers = tuple(
        DealOffer(
            id=deal_id, floor_micros_cpm=random.randint(0, 10**6), auction=random.randint(1, 3),
            seats=frozenset(some(random, (SEAT, "theirs"), 1)),
            advertiser_domains=frozenset(some(random, ("brand1.example", "x.brand2.example"), 1)),
        )
        for deal_id in some(random, (*VALUES[Dimension.DEAL], "d9"), 3)
    )  # fmt: skip
    return Opportunity(
        auction_id=str(random.random()), imp_id="1", exchange=random.choice(("alpha", "beta")), at_ms=NOW_MS,
        lots=blake2b(random.randbytes(8), digest_size=8), test=False, first_price=random.random() < 0.5, tmax_ms=100,
        formats=formats,
        sizes=tuple(some(random, SIZES, 3)), video=video if "video" in formats else None, native_request="",
        mimes=frozenset(some(random, ("video/mp4", "image/png"), 1)), apis=frozenset(some(random, (3, 5), 2)),
        blocked_attributes=frozenset(some(random, (1, 2, 3, 500), 2)), position=0, interstitial=False, rewarded=False,
        secure=random.random() < 0.5, floor_micros_cpm=1, placement=value(Dimension.PLACEMENT), deals=offers,
        private_auction=random.random() < 0.2, inventory=value(Dimension.INVENTORY),
        domain=random.choice((*DOMAINS, "z.b.a.example")), bundle=value(Dimension.BUNDLE),
        publisher=value(Dimension.PUBLISHER), categories=frozenset(some(random, CATEGORIES, 3)), content_language="",
        device=random.choice(list(DeviceKind)), os=value(Dimension.OS), os_version="",
        browser=value(Dimension.BROWSER), make="", model="", language=value(Dimension.LANGUAGE), connection=0,
        country=value(Dimension.COUNTRY), region=value(Dimension.REGION), city=value(Dimension.CITY),
        postcode=value(Dimension.POSTCODE), utc_offset_minutes=0, user_key="u",
        segments=frozenset(some(random, SEGMENTS, 2)), may_store=random.random() < 0.8,
        may_personalise=random.random() < 0.8,
        blocked_categories=frozenset(some(random, CATEGORIES, 1)),
        blocked_types=frozenset(random.choice(((), (), (), (1, 3), (2,), (4,)))),
        blocked_advertisers=frozenset(some(random, ("brand1.example", "x.brand2.example"), 1)),
        blocked_apps=frozenset(("7", "brand.app") if "video" in formats else ()),
        languages_allowed=frozenset(some(random, ("de", "en"), 1)), currency="USD", currency_rate=1.0,
    )  # fmt: skip


def person(random: Random, size: int) -> UserRecord | None:
    if random.random() < 0.3:
        return None
    exposures = tuple(
        Exposure(f"b{n}", NOW_MS - random.randint(0, 90_000), random.randint(1, 4), random.randint(1, 9),
                 7 * random.randint(1, size))
        for n in range(random.randint(0, 6))
    )  # fmt: skip
    return UserRecord(pack(exposures), some(random, SEGMENTS, 2), complete=random.random() < 0.9)


class Naive:
    """The rules as one would say them, one line item at a time."""

    def __init__(self, whole: Catalogue, opportunity: Opportunity, user: UserRecord | None) -> None:
        self.whole = whole
        self.one = opportunity
        self.campaigns = {campaign.id: campaign for campaign in whole.campaigns}
        self.advertisers = {advertiser.id: advertiser for advertiser in whole.advertisers}
        known = user if opportunity.may_personalise else None
        self.exposures = [*seen(user.exposures)] if user and opportunity.may_store else []
        self.complete = user is None or user.complete
        requested = opportunity.segments if opportunity.may_personalise else frozenset()
        self.segments = {*requested, *(known.segments if known else ())}
        self.creatives: dict[int, list[Creative]] = {}
        for one in whole.creatives:
            self.creatives.setdefault(one.line_item_id, []).append(one)

    def recalled(self, item: LineItem) -> bool:
        campaign = self.campaigns.get(item.campaign_id)
        advertiser = campaign and self.advertisers.get(campaign.advertiser_id)
        if campaign is None or advertiser is None:
            return False
        blocked = any(below(advertiser.domain, name) for name in self.one.blocked_advertisers)
        return (
            {item.status, campaign.status, advertiser.status} == {Status.ACTIVE}
            and all(running(flight) for flight in (item.flight, campaign.flight))
            and in_daypart(item.dayparts, advertiser.timezone)
            and all(self.clause(name, clause) for name, clause in item.targeting.clauses.items())
            and all(self.segments & set(group) for group in item.targeting.audience)
            and any(self.fits(item, one) for one in self.creatives.get(item.id, []))
            and self.way(item, advertiser)
            and not blocked
        )

    def clause(self, name: Dimension, clause: Clause) -> bool:
        one = self.one
        if name is Dimension.DEAL or name is Dimension.FORMAT:
            return True  # offers to choose from: see way() and fits()
        if name is Dimension.SIZE:
            sizes = [f"{width}x{height}" for width, height in one.sizes]
            return any(admits(clause, size) for size in sizes) or (not sizes and not clause.include)
        if name is Dimension.SEGMENT:
            values = self.segments
        elif name is Dimension.CATEGORY:
            values = set(one.categories) | {value.partition("-")[0] for value in one.categories}
        elif name is Dimension.DOMAIN:
            values = {value for value in (*clause.include, *clause.exclude) if below(one.domain, value)}
        else:
            values = {getattr(one, name.value)}
        included = not clause.include or bool(values & set(clause.include))
        return included and not values & set(clause.exclude)

    def fits(self, item: LineItem, creative: Creative) -> bool:
        one, clauses = self.one, item.targeting.clauses
        if creative.status is not Status.ACTIVE or creative.format not in one.formats:
            return False
        if not admits(clauses.get(Dimension.FORMAT, Clause()), creative.format):
            return False
        if creative.format is not MediaFormat.BANNER:
            return True
        size = (creative.width or 0, creative.height or 0)
        return (not one.sizes or size in one.sizes) and admits(
            clauses.get(Dimension.SIZE, Clause()), f"{size[0]}x{size[1]}"
        )

    def way(self, item: LineItem, advertiser: Advertiser) -> bool:
        clause = item.targeting.clauses.get(Dimension.DEAL, Clause())
        if not clause.include:
            return not self.one.private_auction
        return any(self.offered(offer, advertiser) and admits(clause, offer.id) for offer in self.one.deals)

    def offered(self, offer: DealOffer, advertiser: Advertiser) -> bool:
        described = [deal for deal in self.whole.deals if deal.deal_id == offer.id]
        on = [deal for deal in described if deal.exchange == self.one.exchange and deal.status is Status.ACTIVE]
        names = offer.advertiser_domains
        return (
            (not described or bool(on))
            and (not offer.seats or SEAT in offer.seats)
            and (not names or any(below(advertiser.domain, name) for name in names))
        )

    def shown(self, item: LineItem, creative: Creative) -> bool:
        one, video = self.one, self.one.video
        categories = {
            *creative.categories,
            *self.advertisers[self.campaigns[item.campaign_id].advertiser_id].categories,
        }
        timed = creative.format is MediaFormat.VIDEO
        duration = creative.duration_seconds
        return (
            self.fits(item, creative)
            and not any(name == block or name.startswith(f"{block}-") for name in categories
                        for block in one.blocked_categories)
            and not (creative.landing_url.startswith(STORE) and "brand.app" in one.blocked_apps)
            and not one.blocked_attributes & set(creative.attributes)
            and (creative.secure or not one.secure)
            and (not one.mimes or creative.mime is None or creative.mime in one.mimes)
            and set(creative.apis) <= one.apis
            and (not one.languages_allowed or creative.language is None or creative.language in one.languages_allowed)
            and (timed or {"<b>": 2, "<script>": 3, "<iframe>": 4}[creative.markup] not in one.blocked_types)
            and (not timed or video is None or not video.protocols
                 or bool(video.protocols & set(creative.protocols or (2, 3, 7, 11, 13))))
            and (not timed or video is None or not video.deliveries or 2 in video.deliveries)
            and (not timed or video is None or creative.bitrate_kbps is None
                 or video.bitrate_kbps_min <= creative.bitrate_kbps <= video.bitrate_kbps_max)
            and (not timed or video is None or duration is None
                 or ((not video.durations_required or duration in video.durations_required)
                     and video.duration_seconds_min <= duration <= video.duration_seconds_max))
        )  # fmt: skip

    def capped(self, item: LineItem) -> bool:
        campaign = self.campaigns[item.campaign_id]
        advertiser = self.advertisers[campaign.advertiser_id]
        for entity, field in ((item, 3), (campaign, 2), (advertiser, 1)):
            for cap in entity.frequency_caps:
                since_ms = NOW_MS - cap.window_seconds * 1_000
                found = [one for one in self.exposures if one[field] == entity.id and one[0] > since_ms]
                if len(found) >= cap.impressions or not self.complete:
                    return True
        return False

    def passing(self, item: LineItem) -> bool:
        return (
            self.recalled(item)
            and any(self.shown(item, one) for one in self.creatives.get(item.id, []))
            and not self.capped(item)
        )


def below(domain: str, name: str) -> bool:
    return domain == name or domain.endswith(f".{name}")


def admits(clause: Clause, value: str) -> bool:
    return (not clause.include or value in clause.include) and value not in clause.exclude


def running(flight: Flight) -> bool:
    return flight.start_ms <= NOW_MS and (flight.end_ms is None or flight.end_ms > NOW_MS)


def in_daypart(dayparts: tuple[Daypart, ...], timezone: str) -> bool:
    local = datetime.fromtimestamp(NOW_MS / 1_000, UTC).astimezone(ZoneInfo(timezone))
    return not dayparts or any(
        part.weekday == local.weekday() and part.start_hour <= local.hour < part.end_hour for part in dayparts
    )


def columns(random: Random, snapshot: Snapshot) -> ControlColumns:
    size = len(snapshot.line_items)
    multipliers = [random.choice((1.0, 0.7, 0.2)) for _ in range(size)]
    return ControlColumns(np.array(multipliers, dtype=np.float64), np.full(size, np.inf), 0)


def last_reason(snapshot: Snapshot, explained: Explanation) -> Exclusion:
    """Return the reason, in the order of the funnel, that lost the last of the line items of a snapshot."""
    if not snapshot.line_items:
        return Exclusion.NO_CANDIDATE
    stages, reasons = list(Stage), list(Exclusion)
    lost = [(verdict.stage, verdict.exclusion) for verdict in explained.verdicts.values()]
    places = [(stages.index(stage), reasons.index(reason)) for stage, reason in lost if stage and reason]
    return reasons[max(places)[1]]


def assert_agreement(random: Random, whole: Catalogue, snapshot: Snapshot, size: int) -> int:
    """Check one impression; return how many line items are left."""
    opportunity, user = impression(random), person(random, size)
    naive = Naive(whole, opportunity, user)
    plain = explain(snapshot, opportunity, user, align(None, snapshot.line_item_ids), NOW_MS, seat=SEAT)
    recalled = {key for key, verdict in plain.verdicts.items() if verdict.stage is not Stage.RECALL}
    assert recalled == {item.id for item in whole.line_items if naive.recalled(item)}
    left = {key for key, verdict in plain.verdicts.items() if verdict.stage is None}
    assert left == {item.id for item in whole.line_items if naive.passing(item)}
    assert len(plain.verdicts) == len(whole.line_items)

    controls = columns(random, snapshot)
    explained = explain(snapshot, opportunity, user, controls, NOW_MS, seat=SEAT)
    survivors = {key for key, verdict in explained.verdicts.items() if verdict.stage is None}
    selected = select(snapshot, opportunity, user, controls, NOW_MS, 10**9, SEAT)
    if isinstance(selected, Exclusion):
        assert not survivors
        assert selected is last_reason(snapshot, explained)
        return 0
    assert set(snapshot.line_item_ids[selected.line_items].tolist()) == survivors
    for row, number in zip(selected.line_items, selected.creatives, strict=True):
        assert naive.shown(snapshot.line_items[row], snapshot.creatives[number])

    limit = random.randint(1, 5)
    best = select(snapshot, opportunity, user, controls, NOW_MS, limit, SEAT)
    assert not isinstance(best, Exclusion)
    score = snapshot.ranking.by(controls.multiplier).score
    assert len(best.line_items) == min(limit, len(survivors))
    assert sorted(score[best.line_items]) == sorted(score[selected.line_items])[-len(best.line_items) :]
    # Whom the limit leaves keeps creative, floor and deal.
    whole_rows = selected.line_items.tolist()
    places = [whole_rows.index(row) for row in best.line_items.tolist()]
    assert best.creatives.tolist() == selected.creatives[places].tolist()
    assert best.floors_micros_cpm.tolist() == selected.floors_micros_cpm[places].tolist()
    assert best.deals == tuple(selected.deals[place] for place in places)
    return len(survivors)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 140), clause_chance=st.sampled_from((0.0, 0.03, 0.1, 0.4)))
def test_small_catalogues(seed: int, size: int, clause_chance: float) -> None:
    random = Random(seed)
    whole = catalogue(random, size, clause_chance)
    snapshot = build(whole, "v1", 0)
    for _ in range(4):
        assert_agreement(random, whole, snapshot, max(size, 1))


@pytest.mark.parametrize("seed", [1, 2])
def test_large_catalogue(seed: int) -> None:
    """Beyond 4,096 line items rare rows are kept sparse, and beyond 8,192 creatives candidates are found by row."""
    random = Random(seed)
    whole = catalogue(random, 7_000, 0.05)
    snapshot = build(whole, "v1", 0)
    assert len(whole.creatives) > 8_192
    left = [assert_agreement(random, whole, snapshot, 7_000) for _ in range(12)]
    assert max(left) > 20


@pytest.mark.parametrize("seed", range(6))
def test_what_is_remembered_serves_only_impressions_alike(seed: int) -> None:
    """One snapshot answers many impressions from kept rows; explain works out every condition anew."""
    random = Random(seed)
    whole = catalogue(random, 30, 0.05)
    snapshot = build(whole, "v1", 0)
    assert sum(assert_agreement(random, whole, snapshot, 30) > 0 for _ in range(500)) > 50


def test_the_best_are_found_in_tiers_whatever_blocks_and_caps_take() -> None:
    """With multipliers far apart and every second line item of the best capped, the top tier is never enough."""
    random = Random(5)
    whole = catalogue(random, 4_000, 0.0)
    snapshot = build(whole, "v1", 0)
    multiplier = np.exp(np.random.default_rng(5).normal(0, 2, len(snapshot.line_items)))
    controls = ControlColumns(multiplier, np.full(len(multiplier), np.inf), 0)
    score = snapshot.ranking.by(multiplier).score
    best = snapshot.line_item_ids[np.argsort(-score)].tolist()
    seen = [item for item in best[: len(best) // 8] if snapshot.caps.line_items.get(item)]
    assert len(seen) > 50
    user = UserRecord(pack(Exposure(f"{item}|{n}", NOW_MS, 0, 0, item) for item in seen for n in range(2)))
    found = 0
    for _ in range(40):
        one = msgspec.structs.replace(impression(random), may_store=True)
        every, few = (select(snapshot, one, user, controls, NOW_MS, limit, SEAT) for limit in (10**9, 16))
        if isinstance(every, Exclusion):
            assert every == few
        else:
            assert not isinstance(few, Exclusion)
            wanted = sorted(score[every.line_items])[-16:]
            assert sorted(score[few.line_items]) == wanted
            found += len(every.line_items) > 100
    assert found > 10


def test_a_tier_that_holds_nobody_recalled_is_passed_over() -> None:
    """The best of the catalogue are for one exchange, the impression is on another."""
    random = Random(6)
    whole = catalogue(random, 4_000, 0.0)
    elsewhere = Targeting(clauses={Dimension.EXCHANGE: Clause(include=("beta",))})
    items = [
        msgspec.structs.replace(item, goal=Goal(kind=GoalKind.CPM, target_micros=10**7), targeting=elsewhere)
        if number % 3
        else msgspec.structs.replace(item, goal=Goal(kind=GoalKind.CPM, target_micros=item.id))
        for number, item in enumerate(whole.line_items)
    ]
    snapshot = build(msgspec.structs.replace(whole, line_items=tuple(items)), "v1", 0)
    controls = align(None, snapshot.line_item_ids)
    found = 0
    for _ in range(120):
        one = msgspec.structs.replace(impression(random), exchange="alpha")
        every, few = (select(snapshot, one, None, controls, NOW_MS, limit, SEAT) for limit in (10**9, 2))
        if isinstance(every, Exclusion):
            assert every == few
        else:
            assert not isinstance(few, Exclusion)
            assert few.line_items.tolist() == every.line_items[-2:].tolist()
            found += len(every.line_items) > 100
    assert found > 10
