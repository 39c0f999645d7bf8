"""The slot of one impression: formats, sizes, MIME types, frameworks and blocks over all media it offers."""

from typing import NamedTuple

from msgspec import Raw

from dsp.kernel.remember import Remembered
from dsp.openrtb import native, vast
from dsp.openrtb.opportunity import Video as VideoSlot
from dsp.openrtb.request import Banner, Device, Imp, Text, Video

#: AdCOM list "Creative Attributes": an ad that can be skipped.
SKIPPABLE = 16
#: An ad is shorter than a day; where a slot names no maximum this is it.
DURATION_SECONDS_MAX = 86_400
#: No ad has more; where a slot names no maximum this is it.
BITRATE_KBPS_MAX = 2**31 - 1
_SIDE_MAX = 20_000
_NON_LINEAR = 2  # AdCOM list "Linearity Modes": an overlay, which our VAST documents are not
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


class Slot(NamedTuple):
    """The fields of `Opportunity` that describe the slot, in its order."""

    formats: frozenset[str]
    sizes: tuple[tuple[int, int], ...]
    video: VideoSlot | None
    native_request: str
    mimes: frozenset[str]
    apis: frozenset[int]
    blocked_attributes: frozenset[int]
    position: int


#: All that a slot is made of: banner, video and audio; of a native slot the request's JSON with the frameworks and
#: attributes beside it; and of a device whose whole screen is offered that.
_Offered = tuple[
    Banner | None,
    Video | None,
    Video | None,
    tuple[bytes, tuple[int, ...], tuple[int, ...]] | None,
    tuple[int, int] | None,
]


def read(imp: Imp, device: Device | None) -> Slot:
    """Return the slot of an impression; `formats` is empty where nothing can fill it.

    Blocks are the union over the media offered, which at worst is stricter than the slot. MIME types and frameworks
    are the union too; where a bid needs a framework that only another medium has, `dsp.openrtb.check` sees it.
    """
    native = imp.native
    asked = (bytes(native.request), native.api, native.battr) if native is not None else None
    return _slots[imp.banner, imp.video, imp.audio, asked, full_screen(imp, device)]


def _read(offered: _Offered) -> Slot:
    banner, video, audio, asked, screen = offered
    if banner is not None and banner_sizes(banner, screen) == []:
        banner = None
    if video is not None and not plays(video):
        video = None
    media: list[tuple[str, tuple[Text, ...], tuple[str, ...]]] = []
    apis: list[int] = []
    blocked: list[int] = []
    position = 0
    sizes: list[tuple[int, int]] = []
    for name, medium, known in (
        ("banner", banner, _BANNER_MIMES),
        ("video", video, _VIDEO_MIMES),
        ("audio", audio, _AUDIO_MIMES),
    ):
        if medium is None:
            continue
        media.append((name, medium.mimes, known))
        if isinstance(medium, Banner):
            sizes += banner_sizes(medium, screen) or []
        elif banner is None and _real(medium.w, medium.h):  # a player scales what it plays: no banner takes its size
            sizes.append((medium.w, medium.h))
        position = position or (medium.pos if medium.pos in _POSITIONS else 0)
        apis += medium.api
        blocked += medium.battr
    request = ""
    if asked is not None:
        raw, native_apis, native_blocked = asked
        request = native.request_text(Raw(raw))
        if request:
            media.append(("native", (), _NATIVE_MIMES))
            apis += native_apis
            blocked += native_blocked
    player = video if video is not None else audio
    return Slot(
        formats=frozenset([name for name, _, _ in media]),
        sizes=tuple(dict.fromkeys(sizes)),
        video=_video(player, audio if player is video else None) if player is not None else None,
        native_request=request,
        mimes=_mimes(media),
        apis=frozenset(apis),
        blocked_attributes=frozenset(blocked),
        position=position,
    )


_slots = Remembered(_read)


def plays(video: Video) -> bool:
    """Return whether a video slot takes linear ads."""
    return video.linearity != _NON_LINEAR


def banner_sizes(banner: Banner, screen: tuple[int, int] | None) -> list[tuple[int, int]] | None:
    """Return the sizes a banner slot permits, None for any; one that names none permits a full `screen`'s.

    A slot that names one side, or the ratio of its sides (a Flex Ad), permits none that we know.
    """
    named = [*[(size.w, size.h) for size in banner.format], (banner.w, banner.h)]
    sizes = [size for size in named if _real(*size)]
    if sizes:
        return sizes
    if screen is not None:
        return [screen]
    flexible = any(size.wratio > 0 or size.hratio > 0 for size in banner.format)
    return [] if flexible or any(side > 0 for size in named for side in size) else None


def full_screen(imp: Imp, device: Device | None) -> tuple[int, int] | None:
    """Return the size of the screen that an impression offers as a whole, if it does."""
    return (device.w, device.h) if imp.instl == 1 and device is not None and _real(device.w, device.h) else None


def _real(width: int, height: int) -> bool:
    return 0 < width <= _SIDE_MAX and 0 < height <= _SIDE_MAX


def _video(video: Video, audio: Video | None) -> VideoSlot:
    # No ad lasts longer than the pod of which it is a part.
    longest = min([seconds for seconds in (video.maxduration, video.poddur) if seconds > 0], default=0)
    shortest = max(video.minduration, 0)
    required = frozenset([seconds for seconds in video.rqddurs if seconds > 0])
    # Some name bounds as well, and a pod may be shorter. Where none is within these, no ad fits.
    within = frozenset([one for one in required if shortest <= one <= (longest or one)])
    if within:
        required, shortest, longest = within, min(within), max(within)
    return VideoSlot(
        duration_seconds_min=min(shortest, DURATION_SECONDS_MAX),
        duration_seconds_max=min(longest, DURATION_SECONDS_MAX) if longest > 0 else DURATION_SECONDS_MAX,
        protocols=frozenset(video.protocols or video.protocol),
        placement=video.plcmt if video.plcmt is not None else -video.placement if video.placement is not None else None,
        skippable=video.skip == 1 and SKIPPABLE not in video.battr,
        skip_min_seconds=max(video.skipmin, 0),
        skip_after_seconds=max(video.skipafter, 0),
        durations_required=required,
        bitrate_kbps_min=max(video.minbitrate, 0),
        bitrate_kbps_max=video.maxbitrate if video.maxbitrate > 0 else BITRATE_KBPS_MAX,
        deliveries=frozenset(video.delivery),
        omid=vast.OMID in video.api,
        audio=_video(audio, None) if audio is not None else None,
    )


def _mimes(media: list[tuple[str, tuple[Text, ...], tuple[str, ...]]]) -> frozenset[str]:
    if not any(stated for _, stated, _ in media):
        return frozenset()
    return frozenset([str(mime).lower() for _, stated, known in media for mime in stated or known])
