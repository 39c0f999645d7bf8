"""VAST 2.0 to 4.2 documents for video and audio ads, and which version a slot can take."""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod, images

#: AdCOM list "Creative Subtypes - Audio/Video": the inline documents, best first.
PROTOCOLS = {13: "4.2", 11: "4.1", 7: "4.0", 3: "3.0", 2: "2.0"}
#: The same of documents that say where to find the ad.
WRAPPERS = {14: "4.2", 12: "4.1", 8: "4.0", 6: "3.0", 5: "2.0"}
_DEFAULT_PROTOCOL, _DEFAULT_WRAPPER = 3, 6
#: The MIME type of VAST documents themselves, which other ad servers answer with.
TAG_MIME = "application/xml"
#: AdCOM list "API Frameworks": Open Measurement.
OMID = 7
#: AdCOM list "Delivery Methods", as VAST calls them.
STREAMING, PROGRESSIVE = 1, 2
_DELIVERIES = {STREAMING: "streaming", PROGRESSIVE: "progressive"}
#: Playlists of HTTP Live Streaming and of MPEG-DASH.
_STREAMED = frozenset({"application/x-mpegurl", "application/vnd.apple.mpegurl", "application/dash+xml"})
#: What a player does not play but run, by VPAID; and that, 1.0 and 2.0, in AdCOM's list "API Frameworks".
SCRIPTS = frozenset({"application/javascript", "application/x-javascript", "application/x-shockwave-flash"})
VPAID = frozenset({1, 2})
_VERSIONS = frozenset(PROTOCOLS.values())
#: They have an id of each showing and verification by Open Measurement in elements of their own.
_MEASURED = frozenset({"4.1", "4.2"})
#: Of a document's version: its subtype where the ad is in it, and where it says where to find it.
_SUBTYPES = {"1.0": (1, 4)} | dict(zip(PROTOCOLS.values(), zip(PROTOCOLS, WRAPPERS, strict=True), strict=True))
#: VAST's names of what a linear ad's trackers are told of as it plays.
_TRACKED = {
    TrackerEvent.START: "start",
    TrackerEvent.FIRST_QUARTILE: "firstQuartile",
    TrackerEvent.MIDPOINT: "midpoint",
    TrackerEvent.THIRD_QUARTILE: "thirdQuartile",
    TrackerEvent.COMPLETE: "complete",
}
_VERSION = re.compile(r"""<VAST\b[^<>]*\sversion\s*=\s*["']([0-9.]+)""")
_DURATION = re.compile(r"<Duration>\s*([0-9]{1,2}):([0-9]{2}):([0-9]{2})")
_MEDIA_TYPE = re.compile(r"""<MediaFile\b[^<>]*\stype\s*=\s*["']([^"'<>]+)""")
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def protocols(mime: str | None) -> dict[int, str]:
    """Return the protocols that a creative whose address leads to that type can be written in, best first."""
    return WRAPPERS if mime == TAG_MIME else PROTOCOLS


def protocol(accepted: Collection[int], spoken: Collection[int] = (), mime: str | None = None) -> int:
    """Return the protocol to answer in: the best that the slot accepts and the creative, if it says, speaks.

    Empty collections accept everything; 0 means that none of ours is accepted. Where the slot does not say, it is
    VAST 3.0 if the creative speaks that: players that say nothing are seldom the newest.
    """
    default = _DEFAULT_WRAPPER if mime == TAG_MIME else _DEFAULT_PROTOCOL
    if not accepted and (not spoken or default in spoken):
        return default
    return next(
        (code for code in protocols(mime) if (not accepted or code in accepted) and (not spoken or code in spoken)), 0
    )


def delivery(mime: str) -> int:
    """Return how media of a MIME type reach a player."""
    return STREAMING if mime.lower() in _STREAMED else PROGRESSIVE


class Document(NamedTuple):
    """What a document written elsewhere says of itself; nothing where its media are told by another."""

    protocol: int
    seconds: int
    mimes: frozenset[str]


@lru_cache(maxsize=1_024)
def read(text: str) -> Document:
    """Return what a document says of the player it needs; 0 and nothing for what it does not say."""
    version = _VERSION.search(text)
    lasting = [int(hours) * 3_600 + int(minutes) * 60 + int(rest) for hours, minutes, rest in _DURATION.findall(text)]
    subtypes = _SUBTYPES.get(version[1], (0, 0)) if version is not None else (0, 0)
    return Document(
        subtypes["<Wrapper" in text],
        max(lasting, default=0),
        frozenset([mime.strip().lower() for mime in _MEDIA_TYPE.findall(text)]),
    )


def inline(
    *,
    version: str,
    ad_id: str,
    serving_id: str,
    title: str,
    media_url: str,
    mime: str,
    duration_seconds: int,
    click_url: str,
    trackers: Sequence[Tracker],
    width: int = 0,
    height: int = 0,
    bitrate_kbps: int = 0,
    audio: bool = False,
    skip_after_seconds: int | None = None,
) -> str:
    """Return an inline VAST document with one linear creative.

    Args:
        version: one of `PROTOCOLS`' values.
        ad_id: identifies the creative to players and to us; `serving_id` this one showing of it (VAST 4.1).
        trackers: of impressions at least one; OMID only where the player has it.
        skip_after_seconds: offer to skip after so long; None means the ad cannot be skipped, nor can any in VAST 2.0.

    Raises:
        ValueError: an unknown version.
    """
    modern = _modern(version)
    titles = [
        _node("AdServingId", serving_id) if version in _MEASURED else "",
        _node("AdTitle", title or ad_id),
    ]
    skip = "" if skip_after_seconds is None or version == "2.0" else f' skipoffset="{_clock(skip_after_seconds)}"'
    duration, played = f"<Duration>{_clock(duration_seconds)}</Duration>", _played(trackers)
    media = f"<MediaFiles>{_media(media_url, mime, width, height, bitrate_kbps)}</MediaFiles>"
    through, clicks = _node("ClickThrough", click_url), _nodes("ClickTracking", trackers, TrackerEvent.CLICK)
    # The schemas, by which exchanges validate, fix the order of elements; from 4.0 on it is another.
    linear = (
        [played, duration, media, f"<VideoClicks>{clicks}{through}</VideoClicks>"]
        if modern
        else [duration, played, f"<VideoClicks>{through}{clicks}</VideoClicks>", media]
    )
    universal_id = f'<UniversalAdId idRegistry="unknown"{_universal_value(version, ad_id)}' if modern else ""
    parts = [f"<Linear{skip}>{''.join(linear)}</Linear>", universal_id]
    creatives = _creatives(ad_id, parts if version == "4.2" else reversed(parts))
    impressions, extensions, verifications = _measured(version, trackers)
    system, attribute = _node("AdSystem", "dsp"), ' adType="audio"' if audio and version in _MEASURED else ""
    return _document(
        version,
        f"<Ad id={_attribute(ad_id)}{attribute}>",
        "InLine",
        [system, extensions, impressions, *titles, verifications, creatives]
        if modern
        else [system, *titles, impressions, creatives, extensions],
    )


def wrapper(*, version: str, ad_id: str, tag_url: str, trackers: Sequence[Tracker]) -> str:
    """Return a VAST document around another ad server's, which the player finds at `tag_url`.

    Arguments are as of `inline`; clicks are known by a tracker alone, for they lead where the other document says.

    Raises:
        ValueError: an unknown version.
    """
    clicks = f"<VideoClicks>{_nodes('ClickTracking', trackers, TrackerEvent.CLICK)}</VideoClicks>"
    creatives = _creatives(ad_id, [f"<Linear>{_played(trackers)}{clicks}</Linear>"])
    impressions, extensions, verifications = _measured(version, trackers)
    system, tag = _node("AdSystem", "dsp"), _node("VASTAdTagURI", tag_url)
    return _document(
        version,
        f"<Ad id={_attribute(ad_id)}>",
        "Wrapper",
        [system, extensions, impressions, verifications, creatives, tag]
        if _modern(version)
        else [system, tag, impressions, creatives, extensions],
    )


def _modern(version: str) -> bool:
    if version not in _VERSIONS:
        raise ValueError(f"VAST {version} is not written here")
    return version.startswith("4")


def _document(version: str, opening: str, kind: str, parts: Sequence[str]) -> str:
    namespace = ' xmlns="http://www.iab.com/VAST"' if _modern(version) else ""
    begin = f'<?xml version="1.0" encoding="UTF-8"?><VAST version="{version}"{namespace}>'
    return f"{begin}{opening}<{kind}>{''.join(parts)}</{kind}></Ad></VAST>"


def _creatives(ad_id: str, parts: Iterable[str]) -> str:
    return f"<Creatives><Creative id={_attribute(ad_id)}>{''.join(parts)}</Creative></Creatives>"


def _measured(version: str, trackers: Sequence[Tracker]) -> tuple[str, str, str]:
    """Return what tells of impressions, and who verifies them: as an extension, and from 4.1 on as an element."""
    impressions = _nodes("Impression", trackers, TrackerEvent.IMPRESSION)
    viewable = _nodes("Viewable", trackers, TrackerEvent.VIEWABLE)
    if viewable and _modern(version):
        impressions += f"<ViewableImpression>{viewable}</ViewableImpression>"
    scripts = "".join([_verification(one) for one in trackers if one.method is TrackerMethod.OMID])
    if not scripts:
        return impressions, "", ""
    verifications = f"<AdVerifications>{scripts}</AdVerifications>"
    if version in _MEASURED:
        return impressions, "", verifications
    return impressions, f'<Extensions><Extension type="AdVerifications">{verifications}</Extension></Extensions>', ""


def _verification(script: Tracker) -> str:
    resource = f'<JavaScriptResource apiFramework="omid" browserOptional="true">{_cdata(script.url)}'
    parameters = _node("VerificationParameters", script.parameters) if script.parameters else ""
    vendor = _attribute(script.vendor or "")
    return f"<Verification vendor={vendor}>{resource}</JavaScriptResource>{parameters}</Verification>"


def _played(trackers: Sequence[Tracker]) -> str:
    events = "".join(
        [
            f'<Tracking event="{_TRACKED[one.event]}">{_cdata(one.url)}</Tracking>'
            for one in trackers
            if one.event in _TRACKED
        ]
    )
    return f"<TrackingEvents>{events}</TrackingEvents>" if events else ""


def _nodes(name: str, trackers: Sequence[Tracker], event: TrackerEvent) -> str:
    return "".join([_node(name, url) for url in images(trackers, event)])


def _media(url: str, mime: str, width: int, height: int, bitrate_kbps: int) -> str:
    bitrate = f' bitrate="{bitrate_kbps}"' if bitrate_kbps else ""
    how = f'delivery="{_DELIVERIES[delivery(mime)]}" type={_attribute(mime)}'
    framework = ' apiFramework="VPAID"' if mime.lower() in SCRIPTS else ""
    opening = f'<MediaFile {how} width="{width}" height="{height}"{bitrate}{framework}>'
    return f"{opening}{_cdata(url)}</MediaFile>"


def _universal_value(version: str, ad_id: str) -> str:
    """Return the rest of UniversalAdId, whose value VAST 4.0 wants as an attribute as well."""
    value = f" idValue={_attribute(ad_id)}" if version == "4.0" else ""
    return f"{value}>{_cdata(ad_id)}</UniversalAdId>"


def _clock(seconds: int) -> str:
    return f"{seconds // 3_600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _node(name: str, text: str) -> str:
    return f"<{name}>{_cdata(text)}</{name}>"


def _cdata(text: str) -> str:
    clean = _ILLEGAL.sub("", text).replace("]]>", "]]]]><![CDATA[>")
    return f"<![CDATA[{clean}]]>"


def _attribute(text: str) -> str:
    return quoteattr(_ILLEGAL.sub("", text))
