"""What a creative must be to be served: its URL, its markup, and what each format needs."""

import re
from urllib.parse import urlsplit

import msgspec

from dsp.catalog.entities import Creative, MediaFormat
from dsp.kernel.errors import Fault
from dsp.openrtb.native import NativeAssets

URL_CHARS_MAX = 2_048
#: Bytes as sent; exchanges bound whole responses, and no tag needs more.
MARKUP_BYTES_MAX = 65_536
_MIME = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]{0,99}")
#: A resource that a browser loads; a link that a user follows may be insecure.
_INSECURE = re.compile(
    r"""(?:\bsrc(?:set)?\s*=\s*["']?|url\(\s*["']?|<link[^>]{0,500}href\s*=\s*["']?)\s*http://""", re.I
)


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
    missing = [name for name in needed[entity.format] if getattr(entity, name) is None]
    faults += [Fault(name, f"is required for {entity.format}") for name in missing]
    if entity.format is MediaFormat.BANNER:
        if entity.secure and _INSECURE.search(entity.markup):
            faults.append(Fault("markup", "loads a resource over http, so the creative is not secure"))
    elif entity.format is MediaFormat.NATIVE:
        _native(entity.markup, faults)
    else:
        _media(entity, faults)
    return entity


def _media(entity: Creative, faults: list[Fault]) -> None:
    try:
        landing_url(entity.markup)
    except ValueError as fault:
        faults.append(Fault("markup", f"the media file's URL {fault}"))
        return
    if entity.secure and entity.markup.startswith("http://"):
        faults.append(Fault("markup", "is an http URL, so the creative is not secure"))


def _native(text: str, faults: list[Fault]) -> None:
    try:
        assets = msgspec.json.decode(text, type=NativeAssets)
    except (msgspec.DecodeError, RecursionError) as fault:
        faults.append(Fault("markup", f"must be a JSON object of native assets: {fault}"))
        return
    for name, image in (("image", assets.image), ("icon", assets.icon)):
        try:
            _ = image and landing_url(image.url)
        except ValueError as fault:
            faults.append(Fault("markup", f"the {name}'s URL {fault}"))
    if not assets.title and not assets.data:
        faults.append(Fault("markup", "needs a title or text"))
