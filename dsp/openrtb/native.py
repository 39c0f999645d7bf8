"""OpenRTB Native 1.0 to 1.2: read what a native slot asks for, and answer with assets that fit."""

from collections.abc import Sequence
from functools import lru_cache
from html import escape

import msgspec

from dsp.kernel.errors import InputError
from dsp.openrtb import lenient, vast
from dsp.openrtb.request import Int, Text
from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod, images

_NATIVE_VERSION = "1.2"
_NATIVE_VERSION_ENVELOPED = "1.0"  # which is the default where there is an object around the request, and the answer
#: Native list "Image Asset Types": a logo (2) is an icon since 1.2; a type above 500 is one exchange's own.
_ICONS = frozenset({1, 2})
_MAIN_IMAGE = 3
#: Native lists "Event Types" (viewable is MRC's, half of it for a second) and "Event Tracking Methods".
_EVENTS = {TrackerEvent.IMPRESSION: 1, TrackerEvent.VIEWABLE: 2}
_METHODS = {TrackerMethod.IMAGE: 1, TrackerMethod.SCRIPT: 2}
_IMPRESSION_BY_IMAGE = 1, 1


class _Title(msgspec.Struct, gc=False):
    len: Int = 0


class _Image(msgspec.Struct, gc=False):
    type: Int = _MAIN_IMAGE
    w: Int = 0
    h: Int = 0
    wmin: Int = 0
    hmin: Int = 0
    mimes: tuple[Text, ...] = ()


class _Data(msgspec.Struct, gc=False):
    type: Int = 0
    len: Int = 0


class _Video(msgspec.Struct, gc=False):
    mimes: tuple[Text, ...] = ()
    minduration: Int = 0
    maxduration: Int = 0
    protocols: tuple[Int, ...] = ()


class Asset(msgspec.Struct, gc=False):
    """What a slot asks for; one of the last four is there."""

    id: Int | None = None
    required: Int = 0
    title: _Title | None = None
    img: _Image | None = None
    data: _Data | None = None
    video: _Video | None = None


class _Events(msgspec.Struct, gc=False):
    event: Int = 0
    methods: list[Int] = []


class _Request(msgspec.Struct, gc=False):
    ver: str | float = ""
    assets: list[Asset] = []
    eventtrackers: list[_Events] = []


class _Envelope(_Request, gc=False):
    """A request, or before 1.1 an object that holds one."""

    native: _Request | None = None


class NativeImage(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An image a creative brings, with its size in pixels; 0 where it is not known."""

    url: str
    w: int = 0
    h: int = 0

    @property
    def mimes(self) -> frozenset[str]:
        """Return the type that the address tells; nothing where it tells none."""
        return _image_mimes(self.url)


class NativeAssets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a native creative brings (`Creative.markup` of a native creative is this as JSON).

    `data` maps the native data asset type (1 sponsored, 2 description, 12 call to action, ...) to its text.
    """

    title: str = ""
    image: NativeImage | None = None
    icon: NativeImage | None = None
    data: dict[int, str] = {}
    video_vast: str = ""


#: Types of images by how their addresses end.
_IMAGE_MIMES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "svg": "image/svg+xml",
}


@lru_cache(maxsize=4_096)
def _image_mimes(url: str) -> frozenset[str]:
    ending = url.partition("?")[0].partition("#")[0].rpartition(".")[2].lower()
    return frozenset([_IMAGE_MIMES[ending]]) if ending in _IMAGE_MIMES else frozenset()


_decoder = msgspec.json.Decoder(_Envelope, strict=False)
_untyped = msgspec.json.Decoder()
_read_leniently = lenient.reader(_Envelope)
_assets_decoder = msgspec.json.Decoder(NativeAssets, strict=False)


def request_text(raw: msgspec.Raw) -> str:
    """Return the JSON of a native request sent as a string or as an object; "" if it asks for no assets."""
    data = bytes(raw)
    if not data or data == b"null":
        return ""
    try:
        text = msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode()
        _read(text)
    except (ValueError, RecursionError, InputError):
        return ""
    return text


def read_assets(markup: str) -> NativeAssets:
    """Return the assets of a native creative; raises InputError (`native_assets`) if they are not that."""
    try:
        return _assets_decoder.decode(markup)
    except (ValueError, RecursionError) as fault:
        raise InputError(f"not native assets: {fault}", reason="native_assets") from fault


def required(native_request: str) -> list[Asset]:
    """Return the assets without which a slot takes no ad, for an opportunity's `native_request`."""
    return [asset for asset in _read(native_request).assets if asset.required == 1]


def meets(assets: NativeAssets, wanted: list[Asset]) -> bool:
    """Return whether a creative has something that fits for each of the assets."""
    return all(_answer(asset, assets) is not None for asset in wanted)


def respond(
    native_request: str,
    assets: NativeAssets,
    *,
    click_url: str,
    trackers: Sequence[Tracker],
) -> str:
    """Return the native response, JSON for `bid.adm`, for an opportunity's `native_request`.

    Raises:
        InputError: `native_request` (unreadable) or `native_mismatch` (a required asset that the creative lacks).
    """
    request = _read(native_request)
    answered = []
    for asset in request.assets:
        content = _answer(asset, assets)
        if content is not None:
            answered.append({"id": asset.id, **content})
        elif asset.required == 1:
            raise InputError(f"the creative has nothing for required asset {asset.id}", reason="native_mismatch")
    clicks = images(trackers, TrackerEvent.CLICK)
    response = {
        "ver": str(request.ver) if request.ver else _NATIVE_VERSION,
        "assets": answered,
        "link": {"url": click_url, **({"clicktrackers": clicks} if clicks else {})},
        **_tracked(request, trackers),
    }
    if str(request.ver) in ("1", "1.0"):
        return msgspec.json.encode({"native": response}).decode()
    return msgspec.json.encode(response).decode()


def _tracked(request: _Request, trackers: Sequence[Tracker]) -> dict[str, object]:
    """Return what tells trackers of events: by the methods that the slot offers for each (Native 1.2, 5.8)."""
    offered = {(event.event, method) for event in request.eventtrackers for method in event.methods}
    coded = [(_EVENTS.get(one.event), _METHODS.get(one.method), one.url) for one in trackers]
    found: dict[str, object] = {}
    if events := [{"event": code, "method": how, "url": url} for code, how, url in coded if (code, how) in offered]:
        found["eventtrackers"] = events
    if _IMPRESSION_BY_IMAGE not in offered:  # as it was done before 1.2, and is understood still
        found["imptrackers"] = images(trackers, TrackerEvent.IMPRESSION)
    scripts = [one.url for one in trackers if one.method is TrackerMethod.SCRIPT]
    if scripts and not request.eventtrackers:  # before 1.2 no slot says whether it runs any
        found["jstracker"] = "".join([f'<script async src="{escape(url)}"></script>' for url in scripts])
    return found


def _read(text: str) -> _Request:
    try:
        envelope = _decode(text)
    except (ValueError, RecursionError, InputError) as fault:
        raise InputError("the native request cannot be read", reason="native_request") from fault
    request: _Request = envelope
    if envelope.native is not None and not envelope.assets:
        request = envelope.native
        request.ver = request.ver or envelope.ver or _NATIVE_VERSION_ENVELOPED
    if not request.assets:
        raise InputError("the native request asks for no assets", reason="native_request")
    ids = {asset.id for asset in request.assets}
    if None in ids or len(ids) != len(request.assets):  # nobody could tell which of them an answer's are
        raise InputError("the assets have no ids of their own (Native 1.2, 4.2)", reason="native_request")
    return request


def _decode(text: str) -> _Envelope:
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError:
        envelope = _read_leniently(_untyped.decode(text), "native")
        return envelope if isinstance(envelope, _Envelope) else _Envelope()


def _answer(asset: Asset, assets: NativeAssets) -> dict[str, object] | None:
    """Return what goes beside the asset's id, None if the creative has nothing that fits."""
    if asset.title is not None:
        text = _fit(assets.title, asset.title.len)
        return {"title": {"text": text}} if text else None
    if asset.img is not None:
        wanted = asset.img
        image = assets.icon if wanted.type in _ICONS else assets.image if wanted.type <= _MAIN_IMAGE else None
        if image is None or not (_fills(image.w, wanted.w, wanted.wmin) and _fills(image.h, wanted.h, wanted.hmin)):
            return None
        if wanted.mimes and not _accepts(wanted.mimes, image.mimes):
            return None
        size = {name: side for name, side in (("w", image.w), ("h", image.h)) if side}
        return {"img": {"url": image.url, **size}}
    if asset.data is not None:
        value = _fit(assets.data.get(asset.data.type, ""), asset.data.len)
        return {"data": {"value": value}} if value else None
    if asset.video is not None and assets.video_vast and _plays(asset.video, vast.read(assets.video_vast)):
        return {"video": {"vasttag": assets.video_vast}}
    return None


def _fills(side: int, exact: int, least: int) -> bool:
    """Return whether a side in pixels will do: who names no least side wants the exact one (Native 1.2, 4.4)."""
    if not side or least > 0:
        return not side or side >= least
    return exact <= 0 or side == exact


def _plays(wanted: _Video, film: vast.Document) -> bool:
    """Return whether a slot takes a film, as far as the film says what it is (Native 1.2, 4.5)."""
    if film.seconds and not wanted.minduration <= film.seconds <= (wanted.maxduration or film.seconds):
        return False
    if film.protocol and wanted.protocols and film.protocol not in wanted.protocols:
        return False
    return not wanted.mimes or _accepts(wanted.mimes, film.mimes)


def _accepts(wanted: tuple[Text, ...], offered: frozenset[str]) -> bool:
    """Return whether one of the types is wanted, or none is known."""
    return not offered or not offered.isdisjoint(map(_mime, wanted))


def _mime(stated: Text) -> str:
    mime = str(stated).strip().lower()
    return "image/jpeg" if mime == "image/jpg" else mime


def _fit(text: str, chars_max: int) -> str:
    """Return the text cut to what the slot shows."""
    if chars_max <= 0 or len(text) <= chars_max:
        return text
    return text[: chars_max - 1].rstrip() + "…"
