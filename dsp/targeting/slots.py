"""What a slot takes of creatives: formats and sizes, MIME types, frameworks, attributes, and what players play."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from operator import attrgetter

import numpy as np

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.kernel.errors import InputError
from dsp.openrtb import vast
from dsp.openrtb.native import NativeAssets, meets, read_assets, required
from dsp.openrtb.opportunity import Opportunity, Video
from dsp.openrtb.template import banner_types
from dsp.targeting import bitmap
from dsp.targeting.creatives import Blocks, Choices, Creatives, Owners, holding, pairs
from dsp.targeting.rows import Conditions, known, union

#: A creative's place: its format, and for banners its size; what an impression must offer.
Slot = tuple[str, int, int]
_BANNER = MediaFormat.BANNER.value
_NATIVE = MediaFormat.NATIVE.value
_SLOT = attrgetter(
    "formats", "sizes", "blocked_attributes", "blocked_types", "secure", "mimes", "apis", "video", "native_request"
)
_NO_PROTOCOL = 0  # what no slot accepts
#: What native creatives differ in for slots: title, size and type of image and of icon, kinds of text, video.
_Image = tuple[int, int, frozenset[str]] | None
_Shape = tuple[bool, _Image, _Image, frozenset[int], vast.Document | None]


def slot_of(creative: Creative) -> Slot:
    """Return the slot a creative fills; only banners have to match in size."""
    if creative.format is MediaFormat.BANNER:
        return (_BANNER, creative.width or 0, creative.height or 0)
    return (creative.format.value, 0, 0)


def slots_of(opportunity: Opportunity, banner_slots: Iterable[Slot]) -> list[Slot]:
    """Return the slots an impression offers; a banner without any size said accepts all of `banner_slots`."""
    slots: list[Slot] = [(kind, 0, 0) for kind in opportunity.formats if kind != _BANNER]
    if _BANNER in opportunity.formats:
        slots += [(_BANNER, width, height) for width, height in opportunity.sizes] or banner_slots
    return slots


class _Measured(Choices[int]):
    """Creatives by a number that some have: those for which it is within bounds are looked up."""

    def __init__(self, creatives: Sequence[Creative], measure: Callable[[Creative], tuple[int, ...]]) -> None:
        super().__init__(creatives, measure)
        self._numbers = sorted(self.named)

    def key(self, least: int, most: int) -> tuple[int, int]:
        """Return what of the bounds makes a difference to some creative."""
        return bisect_left(self._numbers, least), bisect_right(self._numbers, most)

    def require_within(self, reason: Exclusion, least: int, most: int, out: Conditions) -> None:
        """Require that a creative's number is within the bounds, or that it has none."""
        begin, end = self.key(least, most)
        self.require(reason, frozenset(self._numbers[begin:end]), out)


class Slots(Creatives):
    """What the slot takes: a place, and what it says of MIME types, frameworks, attributes and players."""

    def __init__(self, creatives: Sequence[Creative], servable: Sequence[bool], owners: Owners) -> None:
        super().__init__(_SLOT, len(creatives), owners)
        size = len(creatives)
        self._nothing = bitmap.zeros(size)
        self._slots = holding(size, ((slot_of(one), n) for n, one in enumerate(creatives) if servable[n]))
        self._banner_slots = [slot for slot in self._slots if slot[0] == _BANNER]
        self._sizes = frozenset([slot[1:] for slot in self._banner_slots])
        self._attributes = Blocks(size, pairs(creatives, lambda one: one.attributes))
        self._types = Blocks(size, pairs(creatives, _types))
        self._apis = Blocks(size, pairs(creatives, lambda one: one.apis))
        self._insecure = Blocks(size, pairs(creatives, lambda one: () if one.secure else (True,)))
        self._mimes = Choices(creatives, _mime)
        self._protocols = Choices(creatives, _protocols)
        self._deliveries = Choices(creatives, _delivery)
        self._durations, self._bitrates = _Measured(creatives, _duration), _Measured(creatives, _bitrate)
        #: One native creative's assets for all of its shape.
        self._assets: dict[_Shape, NativeAssets] = {}
        self._shapes = holding(size, self._native(creatives, servable))
        self._not_native, self._not_video, self._not_audio = [
            bitmap.from_mask(np.array([one.format is not kind for one in creatives], dtype=np.bool_))
            for kind in (MediaFormat.NATIVE, MediaFormat.VIDEO, MediaFormat.AUDIO)
        ]

    def key(self, opportunity: Opportunity) -> Hashable:
        """Return what of the slot makes a difference to some creative."""
        video, sizes = opportunity.video, opportunity.sizes
        return (
            opportunity.formats,
            self._sizes.intersection(sizes),
            not sizes,
            opportunity.blocked_attributes & self._attributes.named,
            opportunity.blocked_types & self._types.named,
            opportunity.secure,
            known(opportunity.mimes, self._mimes.named),
            opportunity.apis & self._apis.named,
            video and (self._player_key(video), video.audio and self._player_key(video.audio)),
            self._meeting(opportunity),
        )

    def _player_key(self, video: Video) -> Hashable:
        return (
            known(video.protocols, self._protocols.named),
            known(video.durations_required, self._durations.named),
            self._durations.key(video.duration_seconds_min, video.duration_seconds_max),
            self._bitrates.key(video.bitrate_kbps_min, video.bitrate_kbps_max),
            known(video.deliveries, self._deliveries.named),
        )

    def require(self, opportunity: Opportunity, out: Conditions) -> None:
        """Add the conditions that can bind."""
        rows = [self._slots[slot] for slot in slots_of(opportunity, self._banner_slots) if slot in self._slots]
        out.require(Exclusion.SIZE, union(rows) if rows else self._nothing)
        self._attributes.require(Exclusion.ATTRIBUTE_BLOCKED, opportunity.blocked_attributes, out)
        self._types.require(Exclusion.ATTRIBUTE_BLOCKED, opportunity.blocked_types, out)
        if opportunity.secure:
            self._insecure.require(Exclusion.CREATIVE_INSECURE, frozenset([True]), out)
        if opportunity.mimes:
            self._mimes.require(Exclusion.MIME_UNSUPPORTED, opportunity.mimes, out)
        # OpenRTB 2.6, 3.2.6 `api`: a framework that is not listed is not supported.
        self._apis.require(Exclusion.API_UNSUPPORTED, self._apis.named - opportunity.apis, out)
        video = opportunity.video
        if video is not None and video.audio is None:
            self._require_player(video, out)
        elif video is not None and video.audio is not None:
            for player, others in ((video, self._not_video), (video.audio, self._not_audio)):
                of_player = Conditions()
                self._require_player(player, of_player)
                for reason, words in of_player.in_order():
                    out.require(reason, words | others)
        shapes = self._meeting(opportunity)
        if shapes is not None:
            out.require(Exclusion.NATIVE_ASSETS, union([self._not_native, *[self._shapes[one] for one in shapes]]))

    def _require_player(self, video: Video, out: Conditions) -> None:
        if video.protocols:
            self._protocols.require(Exclusion.PROTOCOL_UNSUPPORTED, video.protocols, out)
        if video.durations_required:
            self._durations.require(Exclusion.DURATION, video.durations_required, out)
        least, most = video.duration_seconds_min, video.duration_seconds_max
        self._durations.require_within(Exclusion.DURATION, least, most, out)
        self._bitrates.require_within(Exclusion.BITRATE, video.bitrate_kbps_min, video.bitrate_kbps_max, out)
        if video.deliveries:
            self._deliveries.require(Exclusion.DELIVERY_UNSUPPORTED, video.deliveries, out)

    def _native(self, creatives: Sequence[Creative], servable: Sequence[bool]) -> Iterable[tuple[_Shape, int]]:
        for number, one in enumerate(creatives):
            if one.format.value == _NATIVE and servable[number]:
                try:
                    assets = read_assets(one.markup)
                except InputError:  # it can be shown nowhere
                    continue
                shape = _shape(assets)
                self._assets.setdefault(shape, assets)
                yield shape, number

    def _meeting(self, opportunity: Opportunity) -> frozenset[_Shape] | None:
        """Return the shapes of native creatives that have all that the slot requires, None where it is not native."""
        if _NATIVE not in opportunity.formats or not opportunity.native_request or not self._assets:
            return None
        wanted = required(opportunity.native_request)
        return frozenset([shape for shape, assets in self._assets.items() if meets(assets, wanted)])


def _shape(assets: NativeAssets) -> _Shape:
    image, icon = [(one.w, one.h, one.mimes) if one is not None else None for one in (assets.image, assets.icon)]
    texts = frozenset([kind for kind, value in assets.data.items() if value])
    return bool(assets.title), image, icon, texts, vast.read(assets.video_vast) if assets.video_vast else None


def _timed(creative: Creative) -> bool:
    return creative.format in (MediaFormat.VIDEO, MediaFormat.AUDIO)


def _mime(creative: Creative) -> tuple[str, ...]:
    """Return the type of what is shown; of what another ad server will say nothing is known."""
    return (creative.mime.lower(),) if creative.mime and creative.mime != vast.TAG_MIME else ()


def _delivery(creative: Creative) -> tuple[int, ...]:
    return (vast.delivery(creative.mime or ""),) if _timed(creative) and creative.mime != vast.TAG_MIME else ()


def _duration(creative: Creative) -> tuple[int, ...]:
    return (creative.duration_seconds,) if _timed(creative) and creative.duration_seconds else ()


def _bitrate(creative: Creative) -> tuple[int, ...]:
    return (creative.bitrate_kbps,) if _timed(creative) and creative.bitrate_kbps else ()


def _protocols(creative: Creative) -> Collection[int]:
    """Return in which protocols a creative can be written; one that says nothing can be in all of them."""
    if not _timed(creative):
        return ()
    written = vast.protocols(creative.mime)
    if not creative.protocols:
        return written
    return [one for one in written if one in creative.protocols] or [_NO_PROTOCOL]


def _types(creative: Creative) -> Collection[int]:
    return banner_types(creative.markup) if creative.format is MediaFormat.BANNER else ()
