"""The slot of one impression: formats, sizes, MIME types, frameworks and blocks over all media it offers."""

from typing import Any

from dsp.openrtb import native
from dsp.openrtb.opportunity import Video as VideoSlot
from dsp.openrtb.request import Banner, Device, Imp, Native, Text, Video

#: An ad is shorter than a day; where a slot names no maximum this is it.
DURATION_SECONDS_MAX = 86_400
_SIDE_MAX = 20_000
_POSITIONS = frozenset(range(1, 10))

# What a medium that names no MIME types is taken to accept when the impression offers another that does.
_BANNER_MIMES = (
    "text/html",
    "application/javascript",
    "text/javascript",
    "image/jpeg",
    "image/jpg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/svg+xml",
)
_VIDEO_MIMES = ("video/mp4", "video/webm", "video/ogg", "video/quicktime", "application/x-mpegurl")
_AUDIO_MIMES = ("audio/mp4", "audio/mpeg", "audio/aac", "audio/ogg", "audio/wav")
_NATIVE_MIMES = ("application/json", *_BANNER_MIMES)


def read(imp: Imp, device: Device | None) -> dict[str, Any]:
    """Return the fields of `Opportunity` that describe the slot; `formats` is empty where nothing can fill it.

    Blocks are the union over the media offered, which at worst is stricter than the slot. MIME types and frameworks
    are the union too; where a bid fits one medium's list only by way of another's, `dsp.openrtb.check` sees it.
    """
    media: list[tuple[str, list[Text], tuple[str, ...]]] = []
    apis: list[int] = []
    blocked: list[int] = []
    position = 0
    sizes: list[tuple[int, int]] = []
    request = ""
    for name, medium, known in (
        ("banner", imp.banner, _BANNER_MIMES),
        ("video", imp.video, _VIDEO_MIMES),
        ("audio", imp.audio, _AUDIO_MIMES),
        ("native", imp.native, _NATIVE_MIMES),
    ):
        if medium is None:
            continue
        if isinstance(medium, Native):
            request = native.request_text(medium.request)
            if not request:
                continue
            media.append((name, [], known))
        else:
            media.append((name, medium.mimes, known))
            if isinstance(medium, Banner):
                sizes += banner_sizes(medium, imp, device)
            elif imp.banner is None:  # a player scales what it plays, and no banner should take its size
                sizes += _player_size(medium)
            position = position or (medium.pos if medium.pos in _POSITIONS else 0)
        apis += medium.api
        blocked += medium.battr
    player = imp.video if imp.video is not None else imp.audio
    return {
        "formats": frozenset([name for name, _, _ in media]),
        "sizes": tuple(dict.fromkeys(sizes)),
        "video": _video(player) if player is not None else None,
        "native_request": request,
        "mimes": _mimes(media),
        "apis": frozenset(apis),
        "blocked_attributes": frozenset(blocked),
        "position": position,
    }


def banner_sizes(banner: Banner, imp: Imp, device: Device | None) -> list[tuple[int, int]]:
    """Return the sizes a banner slot permits; a full-screen slot that names none permits the screen's."""
    sizes = [(size.w, size.h) for size in banner.format]
    sizes.append((banner.w, banner.h))
    sizes = [size for size in sizes if _real(*size)]
    if not sizes and imp.instl == 1 and device is not None and _real(device.w, device.h):
        sizes = [(device.w, device.h)]
    return sizes


def _player_size(video: Video) -> list[tuple[int, int]]:
    return [(video.w, video.h)] if _real(video.w, video.h) else []


def _real(width: int, height: int) -> bool:
    return 0 < width <= _SIDE_MAX and 0 < height <= _SIDE_MAX


def _video(video: Video) -> VideoSlot:
    shortest, longest = max(video.minduration, 0), video.maxduration
    required = frozenset([seconds for seconds in video.rqddurs if seconds > 0])
    if required:
        shortest, longest = min(required), max(required)
    return VideoSlot(
        duration_seconds_min=min(shortest, DURATION_SECONDS_MAX),
        duration_seconds_max=min(longest, DURATION_SECONDS_MAX) if longest > 0 else DURATION_SECONDS_MAX,
        protocols=frozenset(video.protocols or video.protocol),
        linearity=video.linearity,
        placement=video.plcmt if video.plcmt is not None else video.placement,
        skippable=video.skip == 1,
        start_delay=video.startdelay,
        durations_required=required,
    )


def _mimes(media: list[tuple[str, list[Text], tuple[str, ...]]]) -> frozenset[str]:
    if not any(stated for _, stated, _ in media):
        return frozenset()
    return frozenset([str(mime).lower() for _, stated, known in media for mime in stated or known])
