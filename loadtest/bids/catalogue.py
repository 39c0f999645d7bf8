"""A seeded catalogue of any size, targeted over twelve dimensions at values that the requests have and others.

It begins with line items whose clauses every request passes, the same number in a catalogue of any size: whatever the
size, a request finds as many candidates, and what differs is what has to be looked through. The rest target narrowly.
In the mix `no-bid` every line item targets the same half of the traffic, and no creative fits what is left: half of the
requests end in recall, and the others when they are matched with creatives.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import NamedTuple, TypeVar

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, Creative, LineItem, MediaFormat
from dsp.catalog.rules import Clause, Dimension, Targeting
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight, FrequencyCap, Goal, GoalKind
from dsp.openrtb.opportunity import DeviceKind, Opportunity

_T = TypeVar("_T", str, tuple[int, int])

#: Line items that every request passes; more than are scored, so that ranking has something to rank.
BROAD = 48
_LINE_ITEMS_A_CAMPAIGN = 10
_CAMPAIGNS_AN_ADVERTISER = 5
#: Banner sizes that a broad line item has a creative for, the most frequent in the requests.
_SIZES = 6
_VALUES_MAX = 400
_CLAUSE_VALUES_MAX = 20
#: SIMID 1.1 (AdCOM list of API frameworks): what hardly an impression supports.
_RARE_API = 9
_COUNTRIES = ("USA", "GBR", "DEU", "FRA", "JPN", "BRA", "IND", "ITA", "ESP", "CAN", "MEX", "POL")
_NATIVE = (
    '{"title": "Fine things", "image": {"url": "https://cdn.example/a.png", "w": 1200, "h": 627}, '
    '"icon": {"url": "https://cdn.example/i.png", "w": 80, "h": 80}, '
    '"data": {"1": "Brand", "2": "Made to last.", "12": "See them"}}'
)


class Mix(StrEnum):
    """What becomes of the requests."""

    BID = "bid"
    NO_BID = "no-bid"


@dataclass(frozen=True, slots=True)
class _Drawn:
    """How a dimension is targeted: what a request has of it, values beside those seen, and how often it is used."""

    of: Callable[[Opportunity], Iterable[str]]
    others: tuple[str, ...]
    share: float


class _Shape(NamedTuple):
    format: MediaFormat
    markup: str
    width: int | None = None
    height: int | None = None
    seconds: int | None = None
    mime: str | None = None
    protocols: tuple[int, ...] = ()


def _one(name: str) -> Callable[[Opportunity], Iterable[str]]:
    return lambda opportunity: [value] if (value := str(getattr(opportunity, name))) else []


_DRAWN: dict[Dimension, _Drawn] = {
    Dimension.EXCHANGE: _Drawn(_one("exchange"), ("alpha", "beta"), 0.5),
    Dimension.COUNTRY: _Drawn(_one("country"), _COUNTRIES, 0.5),
    Dimension.REGION: _Drawn(_one("region"), tuple(f"USA-{number}" for number in range(50)), 0.2),
    Dimension.CITY: _Drawn(_one("city"), tuple(f"USA-city {number}" for number in range(300)), 0.1),
    Dimension.DEVICE: _Drawn(_one("device"), tuple(DeviceKind), 0.5),
    Dimension.OS: _Drawn(_one("os"), ("ios", "android", "windows", "macos"), 0.5),
    Dimension.BROWSER: _Drawn(_one("browser"), ("chrome", "safari", "firefox", "edge"), 0.5),
    Dimension.INVENTORY: _Drawn(_one("inventory"), ("site", "app"), 0.5),
    Dimension.DOMAIN: _Drawn(_one("domain"), tuple(f"site{number}.example" for number in range(300)), 0.2),
    Dimension.CATEGORY: _Drawn(lambda one: one.categories, tuple(f"IAB{number}" for number in range(1, 24)), 0.5),
    Dimension.SEGMENT: _Drawn(lambda one: one.segments, tuple(f"s{number}" for number in range(200)), 0.3),
    Dimension.LANGUAGE: _Drawn(_one("language"), ("en", "de", "fr", "es"), 0.5),
}


def catalogue(opportunities: Sequence[Opportunity], size: int, mix: Mix, seed: int = 1) -> Catalogue:
    """Return `size` line items for these requests; the same arguments give the same catalogue."""
    random = Random(seed)  # noqa: S311 - no secret
    sizes = Counter(size for one in opportunities for size in one.sizes if min(size) > 0)
    seen = {name: Counter(value for one in opportunities for value in drawn.of(one)) for name, drawn in _DRAWN.items()}
    unseen = {name: [value for value in drawn.others if value not in seen[name]] for name, drawn in _DRAWN.items()}
    values = {name: _frequent(counts, _VALUES_MAX) + unseen[name] for name, counts in seen.items()}
    half = _half(opportunities) if mix is Mix.NO_BID else {}
    campaigns = 1 + size // _LINE_ITEMS_A_CAMPAIGN
    advertisers = 1 + campaigns // _CAMPAIGNS_AN_ADVERTISER
    wanted = _frequent(sizes, _SIZES) or [(300, 250)]
    items, creatives = [], list[Creative]()
    for number in range(1, size + 1):
        clauses = _passed(random, unseen) if number <= BROAD else _narrow(random, values)
        items.append(_line_item(random, number, 1 + number % campaigns, {**clauses, **half}))
        shapes = wanted if number <= BROAD else random.sample(wanted, min(len(wanted), random.randint(1, 2)))
        creatives += _creatives(len(creatives) + 1, number, shapes, number <= BROAD or number % 8 == 0, mix)
    return Catalogue(
        advertisers=tuple(
            Advertiser(id=number, name="a", status=Status.ACTIVE, domain=f"brand{number}.example")
            for number in range(1, advertisers + 1)
        ),
        campaigns=tuple(
            Campaign(id=number, name="c", status=Status.ACTIVE, advertiser_id=1 + number % advertisers,
                     flight=Flight(start_ms=0))
            for number in range(1, campaigns + 1)
        ),
        line_items=tuple(items),
        creatives=tuple(creatives),
    )  # fmt: skip


def _line_item(random: Random, number: int, campaign: int, clauses: dict[Dimension, Clause]) -> LineItem:
    kind = random.choice(list(GoalKind)[:3])
    target = {GoalKind.CPM: 5_000_000, GoalKind.CPC: 500_000, GoalKind.CPA: 10_000_000}[kind]
    return LineItem(
        id=number, name="l", status=Status.ACTIVE, campaign_id=campaign, flight=Flight(start_ms=0),
        goal=Goal(kind=kind, target_micros=int(target * random.uniform(0.5, 1.5))),
        targeting=Targeting(clauses=clauses), bid_min_micros_cpm=1_000_000, bid_max_micros_cpm=50_000_000,
        frequency_caps=(FrequencyCap(impressions=5, window_seconds=86_400),) if random.random() < 0.5 else (),
    )  # fmt: skip


def _creatives(first: int, line_item: int, sizes: Sequence[tuple[int, int]], media: bool, mix: Mix) -> list[Creative]:
    """Return a banner of each size, and with `media` a video, a sound and a native ad."""
    apis = (_RARE_API,) if mix is Mix.NO_BID else ()
    banner = '<a href="https://brand.example/"><img src="https://cdn.example/a.png"></a>'
    made = [_Shape(MediaFormat.BANNER, banner, width, height) for width, height in sizes]
    if media:
        made += [
            _Shape(MediaFormat.VIDEO, "https://cdn.example/a.mp4", 1_280, 720, 15, "video/mp4", (2, 3)),
            _Shape(MediaFormat.AUDIO, "https://cdn.example/a.mp3", None, None, 15, "audio/mpeg", (2, 3)),
            _Shape(MediaFormat.NATIVE, _NATIVE),
        ]
    return [
        Creative(
            id=first + place, name="c", status=Status.ACTIVE, line_item_id=line_item, format=one.format, apis=apis,
            markup=one.markup, landing_url="https://brand.example/", width=one.width, height=one.height,
            duration_seconds=one.seconds, mime=one.mime, protocols=one.protocols,
        )
        for place, one in enumerate(made)
    ]  # fmt: skip


def _frequent(counts: Counter[_T], most: int) -> list[_T]:
    """Return the values counted most often, so many at most."""
    return [value for value, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))][:most]


def _narrow(random: Random, values: dict[Dimension, list[str]]) -> dict[Dimension, Clause]:
    clauses = {}
    for name, known in values.items():
        if random.random() < _DRAWN[name].share:
            some = random.sample(known, random.randint(1, min(_CLAUSE_VALUES_MAX, max(1, len(known) // 2))))
            include = random.random() < 0.6
            clauses[name] = (
                Clause(include=tuple(some)) if include else Clause(exclude=tuple(some[: 1 + len(some) // 4]))
            )
    # Without one that admits only what it names a line item would be a broad one, and there must not be more of those
    # in a larger catalogue.
    if sum(bool(clause.include) for clause in clauses.values()) < 2:
        for name in random.sample([Dimension.COUNTRY, Dimension.CATEGORY, Dimension.DOMAIN, Dimension.REGION], 2):
            clauses[name] = Clause(include=tuple(random.sample(values[name], min(5, len(values[name])))))
    return clauses


def _passed(random: Random, unseen: dict[Dimension, list[str]]) -> dict[Dimension, Clause]:
    """Return a clause on every dimension that only forbids what no request has."""
    return {name: Clause(exclude=(random.choice(values or ["elsewhere"]),)) for name, values in unseen.items()}


def _half(opportunities: Sequence[Opportunity]) -> dict[Dimension, Clause]:
    """Return the clause that about half of the requests pass: on the dimension whose values part them most evenly."""
    best: tuple[int, Dimension, list[str]] = (len(opportunities) + 1, Dimension.EXCHANGE, ["alpha"])
    for name, drawn in _DRAWN.items():
        having: dict[str, set[int]] = {}
        for number, one in enumerate(opportunities):
            for value in drawn.of(one):
                having.setdefault(value, set()).add(number)
        passed: set[int] = set()
        taken: list[str] = []
        for value, numbers in sorted(having.items(), key=lambda pair: (-len(pair[1]), pair[0])):
            if len(passed | numbers) * 2 <= len(opportunities) and len(taken) < _CLAUSE_VALUES_MAX:
                passed |= numbers
                taken.append(value)
        if taken and len(opportunities) - 2 * len(passed) < best[0]:
            best = (len(opportunities) - 2 * len(passed), name, taken)
    return {best[1]: Clause(include=tuple(best[2]))}
