"""VAST 2.0 to 4.2 documents for video and audio ads, and which version a slot can take."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

#: AdCOM list "Creative Subtypes - Audio/Video": the inline documents, best first.
PROTOCOLS = {13: "4.2", 11: "4.1", 7: "4.0", 3: "3.0", 2: "2.0"}
_DEFAULT_PROTOCOL = 3
#: AdCOM list "Delivery Methods", as VAST calls them.
STREAMING, PROGRESSIVE = 1, 2
_DELIVERIES = {STREAMING: "streaming", PROGRESSIVE: "progressive"}
#: Playlists of HTTP Live Streaming and of MPEG-DASH.
_STREAMED = frozenset({"application/x-mpegurl", "application/vnd.apple.mpegurl", "application/dash+xml"})
#: What a player does not play but run, by VPAID; and that, 1.0 and 2.0, in AdCOM's list "API Frameworks".
SCRIPTS = frozenset({"application/javascript", "application/x-javascript", "application/x-shockwave-flash"})
VPAID = frozenset({1, 2})
_VERSIONS = frozenset(PROTOCOLS.values())
#: Of a document's version: its subtype where the ad is in it, and where it says where to find it.
_SUBTYPES = {"1.0": (1, 4), "2.0": (2, 5), "3.0": (3, 6), "4.0": (7, 8), "4.1": (11, 12), "4.2": (13, 14)}
_VERSION = re.compile(r"""<VAST\b[^<>]*\sversion\s*=\s*["']([0-9.]+)""")
_DURATION = re.compile(r"<Duration>\s*([0-9]{1,2}):([0-9]{2}):([0-9]{2})")
_MEDIA_TYPE = re.compile(r"""<MediaFile\b[^<>]*\stype\s*=\s*["']([^"'<>]+)""")
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def protocol(accepted: Collection[int], spoken: Collection[int] = ()) -> int:
    """Return the protocol to answer in: the best that the slot accepts and the creative, if it says, speaks.

    Empty collections accept everything; 0 means that none of ours is accepted. Where the slot does not say, it is
    VAST 3.0 if the creative speaks that: players that say nothing are seldom the newest.
    """
    if not accepted and (not spoken or _DEFAULT_PROTOCOL in spoken):
        return _DEFAULT_PROTOCOL
    return next(
        (code for code in PROTOCOLS if (not accepted or code in accepted) and (not spoken or code in spoken)), 0
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
    impression_urls: Sequence[str],
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
        skip_after_seconds: offer to skip after so long; None means the ad cannot be skipped, nor can any in VAST 2.0.

    Raises:
        ValueError: an unknown version.
    """
    if version not in _VERSIONS:
        raise ValueError(f"VAST {version} is not written here")
    modern = version.startswith("4")
    impressions = [_node("Impression", url) for url in impression_urls]
    titles = [
        _node("AdServingId", serving_id) if version in ("4.1", "4.2") else "",
        _node("AdTitle", title or ad_id),
    ]
    skip = "" if skip_after_seconds is None or version == "2.0" else f' skipoffset="{_clock(skip_after_seconds)}"'
    duration = f"<Duration>{_clock(duration_seconds)}</Duration>"
    media = f"<MediaFiles>{_media(media_url, mime, width, height, bitrate_kbps)}</MediaFiles>"
    clicks = f"<VideoClicks>{_node('ClickThrough', click_url)}</VideoClicks>"
    universal_id = f'<UniversalAdId idRegistry="unknown"{_universal_value(version, ad_id)}' if modern else ""
    attribute = ' adType="audio"' if audio and version in ("4.1", "4.2") else ""
    # The schemas, by which exchanges validate, fix the order of elements; from 4.0 on it is another.
    return "".join(
        [
            f'<?xml version="1.0" encoding="UTF-8"?><VAST version="{version}"',
            ' xmlns="http://www.iab.com/VAST">' if modern else ">",
            f"<Ad id={_attribute(ad_id)}{attribute}><InLine>",
            _node("AdSystem", "dsp"),
            *([*impressions, *titles] if modern else [*titles, *impressions]),
            f"<Creatives><Creative id={_attribute(ad_id)}>",
            universal_id if version != "4.2" else "",
            f"<Linear{skip}>{duration}",
            *([media, clicks] if modern else [clicks, media]),
            "</Linear>",
            universal_id if version == "4.2" else "",
            "</Creative></Creatives></InLine></Ad></VAST>",
        ]
    )


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
