"""Which creatives an impression can show: what it accepts and what its publisher blocks, as bitmaps over creatives.

A block is one row a value, so matching costs by the blocks of the request, never by the number of candidates.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.opportunity import Opportunity, Video
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words

#: A creative's place: its format, and for banners its size; what an impression must offer.
Slot = tuple[str, int, int]
_Value = TypeVar("_Value", bound=Hashable)


def category_and_parents(category: str) -> tuple[str, ...]:
    """Return an IAB code and, for a subcategory such as IAB7-1, the category above it."""
    parent, dash, _ = category.partition("-")
    return (category, parent) if dash and parent else (category,)


def slot_of(creative: Creative) -> Slot:
    """Return the slot a creative fills; only banners have to match in size."""
    if creative.format is MediaFormat.BANNER:
        return (creative.format.value, creative.width or 0, creative.height or 0)
    return (creative.format.value, 0, 0)


def slots_of(opportunity: Opportunity, banner_slots: Iterable[Slot]) -> list[Slot]:
    """Return the slots an impression offers; a banner without any size said accepts all of `banner_slots`."""
    slots: list[Slot] = [(kind, 0, 0) for kind in opportunity.formats if kind != "banner"]
    if "banner" in opportunity.formats:
        slots += [("banner", width, height) for width, height in opportunity.sizes] or banner_slots
    return slots


class Matcher:
    """The creatives of a snapshot, compiled.

    `categories` are each creative's own and its advertiser's; `servable` says which may be shown at all.
    """

    def __init__(
        self, creatives: Sequence[Creative], categories: Sequence[frozenset[str]], servable: Sequence[bool]
    ) -> None:
        size = len(creatives)
        self._all = bitmap.from_mask(np.ones(size, dtype=np.bool_))
        self._nothing = bitmap.zeros(size)

        def rows(values: Callable[[Creative], Iterable[_Value]]) -> dict[_Value, Words]:
            return _rows(((value, number) for number, one in enumerate(creatives) for value in values(one)), size)

        def missing(absent: Callable[[Creative], bool]) -> Words:
            return bitmap.from_mask(np.array([absent(one) for one in creatives], dtype=np.bool_))

        self._slots = _rows(((slot_of(one), n) for n, one in enumerate(creatives) if servable[n]), size)
        self._banner_slots = [slot for slot in self._slots if slot[0] == "banner"]
        self._categories = _rows(
            ((parent, n) for n, values in enumerate(categories) for value in values
             for parent in category_and_parents(value)), size)  # fmt: skip
        self._attributes = rows(lambda one: one.attributes)
        self._insecure = missing(lambda one: not one.secure)
        self._mimes = rows(lambda one: (one.mime.lower(),) if one.mime else ())
        self._no_mime = missing(lambda one: not one.mime)
        self._apis = rows(lambda one: one.apis)
        self._protocols = rows(lambda one: one.protocols if _timed(one) else ())
        self._no_protocol = missing(lambda one: not (_timed(one) and one.protocols))
        self._languages = rows(lambda one: (one.language.lower(),) if one.language else ())
        self._no_language = missing(lambda one: not one.language)
        self._durations, self._up_to = _durations(creatives, self._nothing)

    def rows(self, opportunity: Opportunity) -> tuple[list[Exclusion], list[Words]]:
        """Return the reasons that can bind and the creatives that pass each, in the order of the funnel."""
        reasons, rows = [Exclusion.SIZE], [self._fitting(opportunity)]
        blocked = opportunity.blocked_categories & self._categories.keys()
        if blocked:
            reasons.append(Exclusion.CATEGORY_BLOCKED)
            rows.append(self._without([self._categories[value] for value in blocked]))
        attributes = opportunity.blocked_attributes & self._attributes.keys()
        if attributes:
            reasons.append(Exclusion.ATTRIBUTE_BLOCKED)
            rows.append(self._without([self._attributes[value] for value in attributes]))
        if opportunity.secure:
            reasons.append(Exclusion.CREATIVE_INSECURE)
            rows.append(self._without([self._insecure]))
        if opportunity.mimes and self._mimes:
            reasons.append(Exclusion.MIME_UNSUPPORTED)
            rows.append(_any_of(self._no_mime, self._mimes, opportunity.mimes))
        # OpenRTB 2.6, 3.2.6 `api`: a framework that is not listed is not supported.
        lacking = self._apis.keys() - opportunity.apis
        if lacking:
            reasons.append(Exclusion.API_UNSUPPORTED)
            rows.append(self._without([self._apis[value] for value in lacking]))
        if opportunity.video is not None:
            self._match_video(opportunity.video, reasons, rows)
        if opportunity.languages_allowed and self._languages:
            reasons.append(Exclusion.CREATIVE_LANGUAGE)
            rows.append(_any_of(self._no_language, self._languages, opportunity.languages_allowed))
        return reasons, rows

    def _match_video(self, video: Video, reasons: list[Exclusion], rows: list[Words]) -> None:
        if video.protocols and self._protocols:
            reasons.append(Exclusion.PROTOCOL_UNSUPPORTED)
            rows.append(_any_of(self._no_protocol, self._protocols, video.protocols))
        if self._durations:
            # _up_to[i] are the creatives that last as long as one of the i shortest durations.
            too_short = self._up_to[bisect_left(self._durations, video.duration_seconds_min)]
            not_too_long = self._up_to[bisect_right(self._durations, video.duration_seconds_max)]
            too_long = self._up_to[-1] & ~not_too_long
            reasons.append(Exclusion.DURATION)
            rows.append(self._without([too_short, too_long]))

    def _fitting(self, opportunity: Opportunity) -> Words:
        slots = slots_of(opportunity, self._banner_slots)
        return bitmap.union([self._nothing, *[self._slots[slot] for slot in slots if slot in self._slots]])

    def _without(self, blocked: list[Words]) -> Words:
        return self._all & ~bitmap.union(blocked)


def _timed(creative: Creative) -> bool:
    return creative.format in (MediaFormat.VIDEO, MediaFormat.AUDIO)


def _any_of(indifferent: Words, rows: dict[_Value, Words], values: frozenset[_Value]) -> Words:
    return bitmap.union([indifferent, *[rows[value] for value in values & rows.keys()]])


def _rows(pairs: Iterable[tuple[_Value, int]], size: int) -> dict[_Value, Words]:
    members: defaultdict[_Value, list[int]] = defaultdict(list)
    for value, number in pairs:
        members[value].append(number)
    return {value: bitmap.from_positions(numbers, size) for value, numbers in members.items()}


def _durations(creatives: Sequence[Creative], nothing: Words) -> tuple[list[int], list[Words]]:
    by_duration = _rows(
        ((one.duration_seconds, n) for n, one in enumerate(creatives) if _timed(one) and one.duration_seconds),
        len(creatives),
    )
    durations = sorted(by_duration)
    up_to = [nothing]
    for duration in durations:
        up_to.append(up_to[-1] | by_duration[duration])
    return durations, up_to
