"""The simulated world: places, devices, sites, apps and people with hidden tastes. Fixed tables and seeded users.

What a user likes is known here and to the hidden response model, never to the bidder: of it the wire carries only
the segments, which are noisy.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from loadtest.consent import consent_string
from loadtest.draw import Draw, Weighted

#: Content and advertiser verticals: IAB category and the segment of people who lean towards it.
VERTICALS: dict[str, str] = {
    "IAB2": "auto-intender",
    "IAB8": "foodie",
    "IAB9": "gamer",
    "IAB10": "home-improver",
    "IAB12": "news-reader",
    "IAB13": "investor",
    "IAB17": "sports-fan",
    "IAB18": "fashion-lover",
    "IAB19": "tech-enthusiast",
    "IAB20": "traveller",
}

#: The vendor number range that consenting users admit.
VENDOR_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Place:
    """A city with the share of traffic that it brings."""

    country: str
    region: str
    city: str
    postcode: str
    utc_offset_minutes: int
    language: str
    share: float

    @property
    def european(self) -> bool:
        """Tell whether the GDPR applies."""
        return self.country in {"DEU", "FRA", "ITA", "ESP", "POL"}


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its requests describe it."""

    kind: str  # "desktop" | "phone" | "tablet" | "tv"
    devicetype: int  # OpenRTB list 5.21
    os: str
    osv: str
    make: str
    model: str
    ua: str
    width: int
    height: int
    share: float
    apps: bool  # its owner uses apps


@dataclass(frozen=True, slots=True)
class Property:
    """A site or an app. `worth` scales its market prices, `lift` is its hidden effect on response (log odds)."""

    kind: str  # "site" | "app"
    id: str
    name: str
    key: str  # domain or bundle
    publisher: str
    category: str
    subcategory: str
    worth: float
    lift: float
    share: float
    deals: tuple[str, ...] = ()


PLACES = (
    Place("USA", "CA", "Los Angeles", "90012", -480, "en", 16),
    Place("USA", "NY", "New York", "10007", -300, "en", 17),
    Place("USA", "TX", "Austin", "78701", -360, "en", 9),
    Place("USA", "IL", "Chicago", "60601", -360, "en", 8),
    Place("USA", "WA", "Seattle", "98101", -480, "en", 5),
    Place("GBR", "ENG", "London", "EC1A 1BB", 0, "en", 13),
    Place("GBR", "SCT", "Glasgow", "G1 1XQ", 0, "en", 4),
    Place("DEU", "BE", "Berlin", "10115", 60, "de", 8),
    Place("DEU", "BY", "Munich", "80331", 60, "de", 7),
    Place("FRA", "IDF", "Paris", "75001", 60, "fr", 9),
    Place("FRA", "ARA", "Lyon", "69001", 60, "fr", 4),
)

#: Where none of the demo's advertisers advertises.
ELSEWHERE = (
    Place("BRA", "SP", "São Paulo", "01001-000", -180, "pt", 24),
    Place("MEX", "CMX", "Mexico City", "06000", -360, "es", 14),
    Place("JPN", "13", "Tokyo", "100-0001", 540, "ja", 18),
    Place("IDN", "JK", "Jakarta", "10110", 420, "id", 16),
    Place("ITA", "25", "Milan", "20121", 60, "it", 11),
    Place("ESP", "MD", "Madrid", "28001", 60, "es", 10),
    Place("POL", "14", "Warsaw", "00-001", 60, "pl", 7),
)

_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_PHONE_WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"

DEVICES = (
    Device(
        "desktop", 2, "Windows", "10", "", "",
        f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/125.0.0.0 Safari/537.36",
        1920, 1080, 20, False,
    ),
    Device(
        "desktop", 2, "Windows", "10", "", "",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:126.0) Gecko/20100101 Firefox/126.0",
        1920, 1080, 5, False,
    ),
    Device(
        "desktop", 2, "Windows", "11", "", "",
        f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/124.0.0.0 Safari/537.36 Edg/124.0.2478.97",
        2560, 1440, 6, False,
    ),
    Device(
        "desktop", 2, "macOS", "14.5", "Apple", "Macintosh",
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_PHONE_WEBKIT} Version/17.5 Safari/605.1.15",
        1728, 1117, 8, False,
    ),
    Device(
        "phone", 4, "iOS", "17.5", "Apple", "iPhone",
        f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {_PHONE_WEBKIT} Version/17.5 Mobile/15E148 Safari/604.1",  # noqa: E501
        393, 852, 20, True,
    ),
    Device(
        "phone", 4, "Android", "14", "Google", "Pixel 8",
        f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {_WEBKIT} Chrome/125.0.6422.72 Mobile Safari/537.36",
        412, 915, 9, True,
    ),
    Device(
        "phone", 4, "Android", "13", "Samsung", "SM-S911B",
        f"Mozilla/5.0 (Linux; Android 13; SM-S911B) {_WEBKIT} SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36",  # noqa: E501
        360, 780, 14, True,
    ),
    Device(
        "tablet", 5, "iPadOS", "17.4", "Apple", "iPad",
        f"Mozilla/5.0 (iPad; CPU OS 17_4 like Mac OS X) {_PHONE_WEBKIT} Version/17.4 Mobile/15E148 Safari/604.1",
        820, 1180, 7, True,
    ),
    Device(
        "tablet", 5, "Android", "13", "Samsung", "SM-X706B",
        f"Mozilla/5.0 (Linux; Android 13; SM-X706B) {_WEBKIT} Chrome/124.0.0.0 Safari/537.36",
        800, 1280, 3, True,
    ),
    Device(
        "tv", 3, "Tizen", "7.0", "Samsung", "UE55",
        f"Mozilla/5.0 (SMART-TV; LINUX; Tizen 7.0) {_WEBKIT} 94.0.4606.31/7.0 TV Safari/537.36",
        1920, 1080, 5, True,
    ),
    Device(
        "tv", 3, "Fire OS", "7.6", "Amazon", "AFTKA",
        f"Mozilla/5.0 (Linux; Android 9; AFTKA) {_WEBKIT} Chrome/108.0.5359.220 Mobile Safari/537.36",
        1920, 1080, 3, True,
    ),
)  # fmt: skip

SITES = (
    Property("site", "s1", "The Daily Ledger", "dailyledger.example", "pub-north", "IAB12", "IAB12-2", 1.3, -0.5, 18,
             ("deal-premium-news",)),
    Property("site", "s2", "Road & Motor", "roadandmotor.example", "pub-wheel", "IAB2", "IAB2-3", 1.2, 0.4, 10),
    Property("site", "s3", "Pitchside", "pitchside.example", "pub-arena", "IAB17", "IAB17-44", 1.0, 0.1, 14,
             ("deal-sports-video",)),
    Property("site", "s4", "Silverline Finance", "silverline.example", "pub-north", "IAB13", "IAB13-7", 1.8, 0.0, 9,
             ("deal-premium-news",)),
    Property("site", "s5", "Byte Review", "bytereview.example", "pub-pixel", "IAB19", "IAB19-6", 1.1, 0.3, 12),
    Property("site", "s6", "Wander Weekly", "wanderweekly.example", "pub-atlas", "IAB20", "IAB20-3", 1.2, 0.5, 9),
    Property("site", "s7", "Threadbare", "threadbare.example", "pub-atlas", "IAB18", "IAB18-5", 0.9, 0.4, 9),
    Property("site", "s8", "Saucepan", "saucepan.example", "pub-hearth", "IAB8", "IAB8-5", 0.7, 0.2, 9),
    Property("site", "s9", "Fix It Yourself", "fixityourself.example", "pub-hearth", "IAB10", "IAB10-7", 0.7, 0.3, 6),
    Property("site", "s10", "Free Wallpapers 4U", "wallpapers4u.example", "pub-tail", "IAB9", "IAB9-11", 0.3, -1.2, 8),
)  # fmt: skip

APPS = (
    Property("app", "a1", "Gem Cascade", "com.example.gemcascade", "pub-arcade", "IAB9", "IAB9-30", 0.6, 0.2, 18),
    Property("app", "a2", "Kick Manager", "com.example.kickmanager", "pub-arcade", "IAB17", "IAB17-44", 0.8, 0.3, 10),
    Property("app", "a3", "Headline Now", "com.example.headlinenow", "pub-north", "IAB12", "IAB12-2", 1.1, -0.3, 10,
             ("deal-premium-news",)),
    Property("app", "a4", "Pocket Ledger", "com.example.pocketledger", "pub-tally", "IAB13", "IAB13-11", 1.4, 0.1, 6),
    Property("app", "a5", "Trip Jot", "com.example.tripjot", "pub-atlas", "IAB20", "IAB20-27", 1.1, 0.4, 7),
    Property("app", "a6", "Torch Plus", "com.example.torchplus", "pub-tail", "IAB19", "IAB19-18", 0.3, -1.0, 9),
)  # fmt: skip

TV_APPS = (
    Property("app", "t1", "Stream Harbour", "com.example.streamharbour", "pub-harbour", "IAB1", "IAB1-5", 2.0, -0.3, 6,
             ("deal-sports-video",)),
    Property("app", "t2", "Match Day TV", "com.example.matchdaytv", "pub-arena", "IAB17", "IAB17-12", 1.9, 0.2, 4,
             ("deal-sports-video",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    """A person. `tastes` (log odds by vertical) and `keenness` (to convert) are hidden; the rest the wire may carry."""

    id: str
    place: Place
    device: Device
    tastes: dict[str, float]
    keenness: float
    segments: tuple[str, ...]
    consent: str  # TCF string, "" outside Europe
    tracking: bool  # allows tracking: False sets lmt and hides the advertising id


_DEVICE = Weighted([(device, device.share) for device in DEVICES])
#: How European users answer the consent banner: everything, the basics only, nothing.
_CONSENT = Weighted(
    [
        (consent_string(frozenset(range(1, 11)), VENDOR_MAX), 0.7),
        (consent_string(frozenset({1, 2, 7}), VENDOR_MAX, "DE"), 0.12),
        (consent_string(frozenset(), 0), 0.18),
    ]
)


#: How tastes are spread: that of most verticals, how many verticals are liked, and how much (mean and deviation).
INDIFFERENT, LIKED_COUNT, LIKED = -0.35, 2, (1.3, 0.3)
#: How often a data provider tells of a vertical that is liked, and of one that is not.
TOLD_RIGHTLY, TOLD_WRONGLY = 0.8, 0.06
KEENNESS_DEVIATION = 0.6
_PEOPLE = 6_000


class Population:
    """Users by index; the busiest come first."""

    def __init__(self, seed: int | str, places: tuple[Place, ...] = PLACES) -> None:
        self._seed = seed
        self._place = Weighted([(place, place.share) for place in places])
        self.user: Any = lru_cache(maxsize=_PEOPLE)(self._make)

    def visitor(self, draw: Draw) -> User:
        """Return who makes the next visit: a few people make many, most make few."""
        visitor: User = self.user(int(_PEOPLE * draw.uniform() ** 1.7))
        return visitor

    def _make(self, index: int) -> User:
        draw = Draw("user", self._seed, index)
        place = draw.weighted(self._place)
        tastes = dict.fromkeys(VERTICALS, INDIFFERENT)
        for _ in range(LIKED_COUNT):
            tastes[draw.pick(tuple(VERTICALS))] = LIKED[0] + LIKED[1] * draw.normal()
        segments = [
            segment
            for vertical, segment in VERTICALS.items()
            if draw.chance(TOLD_RIGHTLY if tastes[vertical] > 0 else TOLD_WRONGLY)
        ]
        return User(
            id=f"{Draw('user-id', self._seed, index).integer(1 << 52):013x}",
            place=place,
            device=draw.weighted(_DEVICE),
            tastes=tastes,
            keenness=KEENNESS_DEVIATION * draw.normal(),
            segments=tuple(segments),
            consent=draw.weighted(_CONSENT) if place.european else "",
            tracking=draw.chance(0.85),
        )
