"""Seeded OpenRTB 2.5 and 2.6 bid requests: request number i of a seed is the same bytes wherever it is made."""

import gzip
from dataclasses import dataclass
from typing import Any

import msgspec

from loadtest.draw import Draw, Weighted
from loadtest.market import floor_cpm
from loadtest.world import APPS, ELSEWHERE, SITES, TV_APPS, Device, Population, Property, User


@dataclass(frozen=True, slots=True)
class Source:
    """An exchange that traffic comes from, as its requests differ from the others'."""

    exchange: str
    version: str  # of OpenRTB
    first_price: bool
    tmax_ms: int
    share: float
    gzip_share: float = 0.0
    deals: bool = False


SOURCES = (
    Source("demo-first", "2.6", True, 150, 0.6, deals=True),
    Source("demo-second", "2.5", False, 200, 0.4, gzip_share=0.25),
)


@dataclass(frozen=True, slots=True)
class Slot:
    """One impression as the hidden models see it."""

    imp_id: str
    format: str  # "banner" | "video" | "native" | "audio"
    size: str  # "300x250"; "" for native and audio
    position: int  # OpenRTB list 5.4: 1 above the fold, 3 below, 7 full screen
    floor_cpm: float
    deals: dict[str, tuple[float, int]]  # id to floor and auction type


@dataclass(frozen=True, slots=True)
class Request:
    """One bid request ready to send, and what the exchange knows beside it."""

    id: str
    source: Source
    body: bytes
    headers: dict[str, str]
    user: User
    property: Property
    slots: tuple[Slot, ...]
    payload: dict[str, Any]


_FORMAT = {
    "desktop": Weighted([("banner", 74.0), ("video", 18), ("native", 6), ("audio", 2)]),
    "phone": Weighted([("banner", 70.0), ("video", 19), ("native", 7), ("audio", 4)]),
    "tablet": Weighted([("banner", 72.0), ("video", 20), ("native", 6), ("audio", 2)]),
    "tv": Weighted([("video", 1.0)]),
}
_SIZE = {
    "desktop": Weighted([((300, 250), 40.0), ((728, 90), 26), ((160, 600), 18), ((970, 250), 16)]),
    "phone": Weighted([((320, 50), 55.0), ((300, 250), 45)]),
    "tablet": Weighted([((300, 250), 45.0), ((728, 90), 40), ((320, 50), 15)]),
}
_POSITION = {"site": Weighted([(1, 55.0), (3, 45)]), "app": Weighted([(1, 45.0), (3, 35), (7, 20)])}
_BLOCKED_CATEGORIES = ["IAB25", "IAB25-3", "IAB26", "IAB24"]
_SITE = Weighted([(site, site.share) for site in SITES])
_APP = Weighted([(app, app.share) for app in APPS])
_TV_APP = Weighted([(app, app.share) for app in TV_APPS])
_CONNECTION = Weighted([(2, 55.0), (6, 30), (7, 10), (3, 5)])
_encode = msgspec.json.Encoder().encode

NATIVE = {
    "ver": "1.2",
    "context": 1,
    "plcmttype": 1,
    "plcmtcnt": 1,
    "assets": [
        {"id": 1, "required": 1, "title": {"len": 90}},
        {"id": 2, "required": 1, "img": {"type": 3, "w": 1200, "h": 627, "wmin": 300, "hmin": 157}},
        {"id": 3, "required": 0, "data": {"type": 2, "len": 140}},
        {"id": 4, "required": 0, "data": {"type": 1, "len": 25}},
    ],
    "eventtrackers": [{"event": 1, "methods": [1, 2]}],
}


class Traffic:
    """The stream of requests of one seed.

    `elsewhere` is the share that comes from countries in which none of the demo's advertisers advertises, and whose
    publishers take ads in their language only. The others are the same requests whatever that share.
    """

    def __init__(self, seed: int, sources: tuple[Source, ...] = SOURCES, elsewhere: float = 0.0) -> None:
        self.seed = seed
        self._elsewhere = elsewhere
        self._population = Population(seed)
        self._people_elsewhere = Population(f"{seed} elsewhere", ELSEWHERE)
        self._source = Weighted([(source, source.share) for source in sources])

    def request(self, index: int) -> Request:
        """Return request number `index`."""
        draw = Draw("request", self.seed, index)
        source = draw.weighted(self._source)
        elsewhere = Draw("elsewhere", self.seed, index).chance(self._elsewhere)
        user = (self._people_elsewhere if elsewhere else self._population).visitor(draw)
        place = _visited(draw, user.device)
        request_id = f"{self.seed:x}-{index:x}-{draw.integer(1 << 40):010x}"
        imps: list[dict[str, Any]] = []
        slots: list[Slot] = []
        for number in range(2 if draw.chance(0.06) else 1):
            imp, slot = _impression(draw, str(number + 1), source, user.device, place)
            imps.append(imp)
            slots.append(slot)
        payload = _payload(draw, request_id, source, user, place, imps)
        if elsewhere:
            payload["wlang"] = [user.place.language]
        body = _encode(payload)
        headers = {"Content-Type": "application/json", "x-openrtb-version": source.version}
        if draw.chance(source.gzip_share):
            body = gzip.compress(body, 6, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return Request(request_id, source, body, headers, user, place, tuple(slots), payload)


def _visited(draw: Draw, device: Device) -> Property:
    if device.kind == "tv":
        return draw.weighted(_TV_APP)
    return draw.weighted(_APP if device.apps and draw.chance(0.55) else _SITE)


def _impression(
    draw: Draw, imp_id: str, source: Source, device: Device, place: Property
) -> tuple[dict[str, Any], Slot]:
    media = draw.weighted(_FORMAT[device.kind])
    position = 7 if device.kind == "tv" else draw.weighted(_POSITION[place.kind])
    imp: dict[str, Any] = {
        "id": imp_id,
        "tagid": f"{place.id}-{media}-{position}",
        "secure": 1,
        "instl": int(position == 7 and media == "banner" and place.kind == "app"),
        "bidfloorcur": "USD",
    }
    size = ""
    if media == "banner":
        width, height = draw.weighted(_SIZE[device.kind])
        size = f"{width}x{height}"
        imp["banner"] = {"w": width, "h": height, "pos": position, "format": [{"w": width, "h": height}], "topframe": 1}
        if draw.chance(0.15):
            imp["banner"]["battr"] = [1, 2, 3, 8, 9, 14]
    elif media == "video":
        size = "640x360"
        imp["video"] = _video(draw, source, position)
    elif media == "audio":
        imp["audio"] = {
            "mimes": ["audio/mpeg", "audio/mp4"], "minduration": 5, "maxduration": 30,
            "protocols": [2, 3, 6, 7, 9, 10], "startdelay": 0,
        }  # fmt: skip
    else:
        imp["native"] = {"request": _encode(NATIVE).decode(), "ver": "1.2"}
    floor = floor_cpm(draw, media, size, place.worth)
    imp["bidfloor"] = floor
    deals = _deals(draw, source, place, floor)
    if deals:
        imp["pmp"] = {
            "private_auction": 0,
            "deals": [
                {"id": deal, "bidfloor": price, "bidfloorcur": "USD", "at": at} for deal, (price, at) in deals.items()
            ],
        }
    return imp, Slot(imp_id, media, size, position, floor, deals)


def _video(draw: Draw, source: Source, position: int) -> dict[str, Any]:
    video: dict[str, Any] = {
        "mimes": ["video/mp4", "video/webm"],
        "minduration": 5,
        "maxduration": draw.pick((15, 30, 30, 60)),
        "protocols": [2, 3, 5, 6, 7, 8],
        "w": 640,
        "h": 360,
        "startdelay": 0,
        "linearity": 1,
        "skip": draw.integer(2),
        "pos": position,
        "playbackmethod": [2],
        "api": [1, 2],
    }
    video["plcmt" if source.version == "2.6" else "placement"] = 1
    return video


def _deals(draw: Draw, source: Source, place: Property, floor: float) -> dict[str, tuple[float, int]]:
    if not source.deals:
        return {}
    return {deal: (round(floor * 1.2 + 0.4, 2), 1) for deal in place.deals if draw.chance(0.7)}


def _payload(
    draw: Draw, request_id: str, source: Source, user: User, place: Property, imps: list[dict[str, Any]]
) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "id": request_id,
        "imp": imps,
        place.kind: _inventory(place, source),
        "device": _device(draw, user, place),
        "user": _user(user, source),
        "at": 1 if source.first_price else 2,
        "tmax": source.tmax_ms,
        "cur": ["USD"],
        "bcat": _BLOCKED_CATEGORIES,
        "source": _source_chain(request_id, source, place),
    }
    if draw.chance(0.05):
        payload["badv"] = [draw.pick(("rival-motors.example", "voltacars.example", "loanshark.example"))]
    gdpr = int(user.place.european)
    if source.version == "2.6":
        payload["regs"] = {"gdpr": gdpr, "coppa": 0}
    else:
        payload["regs"] = {"coppa": 0, "ext": {"gdpr": gdpr}}
    return payload


def _inventory(place: Property, source: Source) -> dict[str, Any]:
    inventory: dict[str, Any] = {
        "id": place.id,
        "name": place.name,
        "cat": [place.category, place.subcategory],
        "publisher": {"id": place.publisher, "name": place.publisher},
        "content": {"language": "en"},
    }
    if source.version == "2.6":
        inventory["cattax"] = 1
    if place.kind == "site":
        return inventory | {"domain": place.key, "page": f"https://{place.key}/{place.subcategory.lower()}"}
    return inventory | {"bundle": place.key, "storeurl": f"https://apps.example/{place.key}", "ver": "3.1"}


def _device(draw: Draw, user: User, place: Property) -> dict[str, Any]:
    device, home = user.device, user.place
    described: dict[str, Any] = {
        "ua": device.ua,
        "ip": f"198.51.100.{draw.integer(256)}",
        "devicetype": device.devicetype,
        "os": device.os,
        "osv": device.osv,
        "make": device.make,
        "model": device.model,
        "w": device.width,
        "h": device.height,
        "js": 1,
        "language": home.language,
        "connectiontype": draw.weighted(_CONNECTION),
        "lmt": int(not user.tracking),
        "dnt": 0,
        "geo": {
            "country": home.country,
            "region": home.region,
            "city": home.city,
            "zip": home.postcode,
            "utcoffset": home.utc_offset_minutes,
            "type": 2,
        },
    }
    if place.kind == "app" and user.tracking:
        described["ifa"] = f"{user.id[:8]}-{user.id[8:12]}-4000-8000-{user.id[:12]}"
    return described


def _user(user: User, source: Source) -> dict[str, Any]:
    described: dict[str, Any] = {"id": user.id, "buyeruid": f"b{user.id}"}
    if user.segments:
        described["data"] = [
            {"id": "dmp-1", "name": "Panorama", "segment": [{"id": segment} for segment in user.segments]}
        ]
    if user.consent:
        if source.version == "2.6":
            described["consent"] = user.consent
        else:
            described["ext"] = {"consent": user.consent}
    return described


def _source_chain(request_id: str, source: Source, place: Property) -> dict[str, Any]:
    chain = {
        "ver": "1.0",
        "complete": 1,
        "nodes": [{"asi": f"{source.exchange}.example", "sid": place.publisher, "hp": 1, "rid": request_id}],
    }
    described: dict[str, Any] = {"fd": 0, "tid": request_id}
    if source.version == "2.6":
        return described | {"schain": chain}
    return described | {"ext": {"schain": chain}}
