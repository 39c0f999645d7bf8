"""What a creative must be to be served: its URL, its markup, and what each format needs."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.html import unclosed
from dsp.kernel.errors import Fault
from dsp.openrtb.macros import CACHE_BUSTER, CLICK_URL_ENCODED, filled, unknown
from dsp.openrtb.native import NativeAssets
from dsp.openrtb.template import insecure
from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod
from dsp.openrtb.vast import SCRIPTS, TAG_MIME, VPAID, WRAPPERS

URL_CHARS_MAX = 2_048
#: Bytes as sent; exchanges bound whole responses, and no tag needs more.
MARKUP_BYTES_MAX = 65_536
#: Each becomes an address of hundreds of characters: a few thousand would make every bid one of megabytes.
CLICK_MACROS_MAX = 100
#: With the longest addresses they are as long as the longest markup.
TRACKERS_MAX = 30
#: What is told of a vendor's script: some are told a JSON document.
PARAMETERS_CHARS_MAX = 4_096
_VENDOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MIME = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+-]{0,99}")
#: Where clicks are counted; bidder.markup fills it in. The address is whole: what follows would spoil its token.
_CLICK = re.compile(r"\$\{CLICK_URL(?:_ENC)?\}(?P<more>[\w%/?=$.~+:-])?")
#: Click macros of other platforms and misspelt ones of ours, which nobody replaces.
#: What repeats is bounded, and a tag ends before the next, so that markup made to be slow takes no longer than other.
_FOREIGN_CLICK = re.compile(
    r"%%[A-Z_]{0,40}CLI?C?K[A-Z_]{0,40}%%|\$\{(?!CLICK_URL(?:_ENC)?\})CLICK[A-Z_]*\}|\[CLICK_?URL\]"
)
#: A link without an address as well: no link can be inside another, so it ends the one that the whole is made.
_LINK = re.compile(r"<(?:a[\s>]|area\s[^<>]*\bhref\s*=)", re.I)
#: How a script opens a page, in a browser and in an app, and the variable in which the trade's tools have its address.
_OPENS = re.compile(r"\b(?:window|mraid)\.open\s*\(|\bclickTAG\b", re.I)


def landing_url(value: str) -> str:
    """Return an absolute http(s) URL; nothing that could be made to lead elsewhere than it shows."""
    if len(value) > URL_CHARS_MAX:
        raise ValueError(f"must have at most {URL_CHARS_MAX} characters")
    if not value.isascii() or any(character <= " " or character in '"<>\\^`{|}\x7f' for character in value):
        raise ValueError("must be percent-encoded ASCII without blanks")
    parts = urlsplit(value)  # its ValueErrors are sentences too
    if parts.scheme not in ("http", "https"):
        raise ValueError("must be an http or https URL")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise ValueError("must have a host and no user name")
    _ = parts.port  # raises ValueError when it is no port
    return value


def markup(value: str) -> str:
    """Return the markup when it is not empty, not too large, and storable."""
    if not value.strip():
        raise ValueError("must not be empty")
    if len(value.encode()) > MARKUP_BYTES_MAX:
        raise ValueError(f"must have at most {MARKUP_BYTES_MAX} bytes")
    if "\x00" in value:
        raise ValueError("must not contain NUL characters")
    return value


def mime(value: str) -> str:
    """Return a media type in lower case."""
    lower = value.strip().lower()
    if not _MIME.fullmatch(lower):
        raise ValueError("must be a media type such as video/mp4")
    return lower


def creative(entity: Creative, path: str, faults: list[Fault]) -> Creative:
    """Check what the format needs beyond single fields; a rule of dsp.catalog.validate."""
    needed: dict[MediaFormat, tuple[str, ...]] = {
        MediaFormat.BANNER: ("width", "height"),
        MediaFormat.VIDEO: ("width", "height", "duration_seconds", "mime"),
        MediaFormat.AUDIO: ("duration_seconds", "mime"),
        MediaFormat.NATIVE: (),
    }
    media = entity.format in (MediaFormat.VIDEO, MediaFormat.AUDIO)
    missing = [name for name in needed[entity.format] if getattr(entity, name) is None]
    faults += [Fault(name, f"is required for {entity.format}") for name in missing]
    if media and entity.mime is not None:
        kinds = (entity.format.value, "application")  # manifests and scripts are applications
        if entity.mime.partition("/")[0] not in kinds:
            faults.append(Fault("mime", f"must be of {entity.format}, not {entity.mime}"))
        if entity.mime in SCRIPTS and VPAID.isdisjoint(entity.apis):
            faults.append(Fault("apis", f"must name the VPAID (1 or 2) that {entity.mime} needs"))
        if entity.mime == TAG_MIME and entity.protocols and WRAPPERS.keys().isdisjoint(entity.protocols):
            faults.append(Fault("protocols", f"must name a wrapper's ({_listed(WRAPPERS)}) where mime is {TAG_MIME}"))
    if entity.format is MediaFormat.BANNER:
        _banner(entity.markup, faults)
        loaded = entity.markup
    elif entity.format is MediaFormat.NATIVE:
        loaded = _native(entity.markup, faults)
    else:
        _media(entity, faults)
        loaded = f'"{entity.markup}"'
    _trackers(entity, faults)
    # The bidder's self-check drops bids with such markup, and nobody would know why the creative is never shown.
    if entity.secure and insecure(loaded):
        faults.append(Fault("markup", "loads a resource over http, so the creative is not secure"))
    if names := unknown(entity.markup):
        faults.append(Fault("markup", f"has a macro that OpenRTB does not know: ${{{names[0][:64]}}}"))
    return entity


def _banner(html: str, faults: list[Fault]) -> None:
    """Refuse what nobody would count: clicks on links to elsewhere, and impressions, by a pixel that is not loaded."""
    clicks = list(_CLICK.finditer(html))
    foreign = _FOREIGN_CLICK.search(html)
    if foreign is not None:
        faults.append(
            Fault("markup", f"has a click macro that is not known here, {foreign[0][:64]}: write ${{CLICK_URL}}")
        )
    elif len(clicks) > CLICK_MACROS_MAX:
        faults.append(Fault("markup", f"must have ${{CLICK_URL}} at most {CLICK_MACROS_MAX} times"))
    elif any(click["more"] for click in clicks):
        faults.append(Fault("markup", "has something right after ${CLICK_URL}, which leads to landing_url by itself"))
    elif not clicks and _LINK.search(html):
        faults.append(Fault("markup", "has a link whose clicks nobody counts: let it lead to ${CLICK_URL}"))
    elif not clicks and (opens := _OPENS.search(html)):
        faults.append(Fault("markup", f"has a script that opens a page, {opens[0]}: let it open ${{CLICK_URL}}"))
    elif begun := unclosed(html):
        faults.append(Fault("markup", f"has {begun[:64]} without its end, which swallows what counts the impression"))


def _media(entity: Creative, faults: list[Fault]) -> None:
    tag = entity.mime == TAG_MIME
    try:
        landing_url(filled(entity.markup, (CACHE_BUSTER, CLICK_URL_ENCODED), player=True) if tag else entity.markup)
    except ValueError as fault:
        faults.append(Fault("markup", f"the {'VAST document' if tag else 'media file'}'s URL {fault}"))


def tracker(one: Tracker, path: str, faults: list[Fault]) -> Tracker:
    """Check what holds of a tracker in any creative; a rule of dsp.catalog.validate."""
    try:
        if not landing_url(filled(one.url, (CACHE_BUSTER,), player=True)).startswith("https:"):
            raise ValueError("must be an https URL")
    except ValueError as fault:
        faults.append(Fault(f"{path}.url", str(fault)))
    if len(one.url) > URL_CHARS_MAX:
        faults.append(Fault(f"{path}.url", f"must have at most {URL_CHARS_MAX} characters"))
    if one.method is not TrackerMethod.OMID:
        stray = [name for name in ("vendor", "parameters") if getattr(one, name) is not None]
        faults += [Fault(f"{path}.{name}", f"is for {TrackerMethod.OMID} only") for name in stray]
    elif one.vendor is None or not _VENDOR.fullmatch(one.vendor):
        faults.append(Fault(f"{path}.vendor", "must be the vendor's key such as company.com-omid"))
    if one.parameters is not None:
        if len(one.parameters) > PARAMETERS_CHARS_MAX:
            faults.append(Fault(f"{path}.parameters", f"must have at most {PARAMETERS_CHARS_MAX} characters"))
        if "${" in one.parameters or "\x00" in one.parameters:
            faults.append(Fault(f"{path}.parameters", "must have no macros and no NUL characters"))
        if insecure(f'"{one.parameters}'):
            faults.append(Fault(f"{path}.parameters", "names a resource over http"))
    return one


_IMAGES = frozenset([(event, TrackerMethod.IMAGE) for event in TrackerEvent])
_VERIFIED = _IMAGES | {(TrackerEvent.IMPRESSION, TrackerMethod.OMID)}
#: What can be told in each format: where a page has no means of ours, its markup has them.
_TOLD = {
    MediaFormat.BANNER: frozenset({(TrackerEvent.IMPRESSION, TrackerMethod.IMAGE)}),
    MediaFormat.VIDEO: _VERIFIED,
    MediaFormat.AUDIO: _VERIFIED - {(TrackerEvent.VIEWABLE, TrackerMethod.IMAGE)},
    MediaFormat.NATIVE: frozenset(
        {
            (TrackerEvent.IMPRESSION, TrackerMethod.IMAGE),
            (TrackerEvent.IMPRESSION, TrackerMethod.SCRIPT),
            (TrackerEvent.VIEWABLE, TrackerMethod.IMAGE),
            (TrackerEvent.CLICK, TrackerMethod.IMAGE),
        }
    ),
}


def _trackers(entity: Creative, faults: list[Fault]) -> None:
    """Refuse what the format has no place for: nobody would ever be told."""
    for number, one in enumerate(entity.trackers):
        at = f"trackers[{number}]"
        if (one.event, one.method) not in _TOLD[entity.format]:
            message = f"{entity.format} cannot tell of {one.event} by {one.method}"
            if entity.format is MediaFormat.BANNER:
                message += ": write scripts into markup, and let landing_url lead through a click's tracker"
            faults.append(Fault(at, message))
        elif "[" in one.url and entity.format in (MediaFormat.BANNER, MediaFormat.NATIVE):
            faults.append(Fault(f"{at}.url", f"has a macro that only players replace: write {CACHE_BUSTER}"))


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _native(text: str, faults: list[Fault]) -> str:
    """Judge native assets; return what of them is loaded where they are shown, rather than read."""
    try:
        assets = msgspec.json.decode(text, type=NativeAssets)
    except (msgspec.DecodeError, RecursionError) as fault:
        faults.append(Fault("markup", f"must be a JSON object of native assets: {fault}"))
        return ""
    for name, image in (("image", assets.image), ("icon", assets.icon)):
        try:
            _ = image and landing_url(image.url)
        except ValueError as fault:
            faults.append(Fault("markup", f"the {name}'s URL {fault}"))
    if not any(text.strip() for text in (assets.title, *assets.data.values())):
        faults.append(Fault("markup", "needs a title or text"))
    if assets.video_vast and "<VAST" not in assets.video_vast:
        faults.append(Fault("markup", "video_vast must be a VAST document"))
    return "".join(f'"{image.url}"' for image in (assets.image, assets.icon) if image is not None) + assets.video_vast
