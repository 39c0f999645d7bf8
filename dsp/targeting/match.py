"""Which creatives an impression can show: what it accepts and what its publisher blocks, as rows over creatives.

A block is one row a value, so matching costs by the blocks of the request, never by the number of candidates.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.opportunity import Opportunity, Video
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.rows import Conditions, Row, Value, compress, expand, holders, known, union

#: A creative's place: its format, and for banners its size; what an impression must offer.
Slot = tuple[str, int, int]
_BANNER = MediaFormat.BANNER.value


def category_and_parents(category: str) -> tuple[str, ...]:
    """Return an IAB code and, for a subcategory such as IAB7-1, the category above it."""
    parent, dash, _ = category.partition("-")
    return (category, parent) if dash and parent else (category,)


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


class _Named(NamedTuple):
    """What creatives say of themselves; no other value makes a difference."""

    categories: frozenset[str]
    attributes: frozenset[int]
    apis: frozenset[int]
    mimes: frozenset[str | None]
    protocols: frozenset[int | None]
    languages: frozenset[str | None]
    durations: frozenset[int | None]


class Matcher:
    """The creatives of a snapshot, compiled.

    `categories` are each creative's own and its advertiser's; `servable` says which may be shown at all.
    """

    def __init__(
        self, creatives: Sequence[Creative], categories: Sequence[frozenset[str]], servable: Sequence[bool]
    ) -> None:
        self._everything, self._nothing = bitmap.ones(len(creatives)), bitmap.zeros(len(creatives))
        self._size = len(creatives)
        self._slots = self._rows(((slot_of(one), n) for n, one in enumerate(creatives) if servable[n]))
        self._banner_slots = [slot for slot in self._slots if slot[0] == _BANNER]
        # What is blocked value by value: the row of a value is what a block on it leaves.
        self._categories = self._rows(
            (
                (name, n)
                for n, values in enumerate(categories)
                for value in values
                for name in category_and_parents(value)
            ),
            without=True,
        )
        self._attributes = self._rows(_pairs(creatives, lambda one: one.attributes), without=True)
        self._apis = self._rows(_pairs(creatives, lambda one: one.apis), without=True)
        self._insecure = self._rows(_pairs(creatives, lambda one: () if one.secure else (True,)), without=True)
        # What is accepted value by value: a creative that names no value is indifferent.
        self._mimes = self._accepting(creatives, lambda one: (one.mime.lower(),) if one.mime else ())
        self._protocols = self._accepting(creatives, lambda one: one.protocols if _timed(one) else ())
        self._languages = self._accepting(creatives, lambda one: (one.language.lower(),) if one.language else ())
        self._exact = self._accepting(creatives, _duration)
        self._durations, self._up_to = self._compile_durations()
        self._named = _Named(
            frozenset(self._categories),
            frozenset(self._attributes),
            frozenset(self._apis),
            frozenset(self._mimes),
            frozenset(self._protocols),
            frozenset(self._languages),
            frozenset(self._exact),
        )

    def conditions(self, opportunity: Opportunity) -> Conditions:
        """Return the conditions on creatives that can bind."""
        out = Conditions()
        self._fit(opportunity, out)
        for value in opportunity.blocked_categories & self._categories.keys():
            out.require(Exclusion.CATEGORY_BLOCKED, expand(self._categories[value]))
        for attribute in opportunity.blocked_attributes & self._attributes.keys():
            out.require(Exclusion.ATTRIBUTE_BLOCKED, expand(self._attributes[attribute]))
        if opportunity.secure and self._insecure:
            out.require(Exclusion.CREATIVE_INSECURE, expand(self._insecure[True]))
        if opportunity.mimes:
            self._accept(Exclusion.MIME_UNSUPPORTED, self._mimes, opportunity.mimes, out)
        # OpenRTB 2.6, 3.2.6 `api`: a framework that is not listed is not supported.
        for api in self._apis.keys() - opportunity.apis:
            out.require(Exclusion.API_UNSUPPORTED, expand(self._apis[api]))
        if opportunity.video is not None:
            self._match_video(opportunity.video, out)
        if opportunity.languages_allowed:
            self._accept(Exclusion.CREATIVE_LANGUAGE, self._languages, opportunity.languages_allowed, out)
        return out

    def key(self, opportunity: Opportunity) -> Hashable:
        """Return a key that, with the formats and sizes, is equal only for impressions with equal conditions."""
        video = opportunity.video
        named = self._named
        return (
            opportunity.blocked_categories & named.categories,
            opportunity.blocked_attributes & named.attributes,
            opportunity.secure,
            known(opportunity.mimes, named.mimes),
            opportunity.apis & named.apis,
            known(opportunity.languages_allowed, named.languages),
            video
            and (
                known(video.protocols, named.protocols),
                known(video.durations_required, named.durations),
                video.duration_seconds_min,
                video.duration_seconds_max,
            ),
        )

    def _fit(self, opportunity: Opportunity, out: Conditions) -> None:
        rows = [self._slots[slot] for slot in slots_of(opportunity, self._banner_slots) if slot in self._slots]
        out.require(Exclusion.SIZE, union(rows) if rows else self._nothing)

    def _match_video(self, video: Video, out: Conditions) -> None:
        if video.protocols:
            self._accept(Exclusion.PROTOCOL_UNSUPPORTED, self._protocols, video.protocols, out)
        if video.durations_required:
            self._accept(Exclusion.DURATION, self._exact, video.durations_required, out)
        elif self._durations:
            # _up_to[i] are the creatives that last as long as one of the i shortest durations.
            too_short = self._up_to[bisect_left(self._durations, video.duration_seconds_min)]
            not_too_long = self._up_to[bisect_right(self._durations, video.duration_seconds_max)]
            too_long = self._up_to[-1] & ~not_too_long
            out.require(Exclusion.DURATION, self._everything & ~(too_short | too_long))

    def _accept(
        self, reason: Exclusion, rows: dict[Value | None, Row], values: frozenset[Value], out: Conditions
    ) -> None:
        if rows:
            named = [rows[value] for value in values & rows.keys()]
            out.require(reason, union([rows[None], *named]))

    def _rows(self, pairs: Iterable[tuple[Value, int]], *, without: bool = False) -> dict[Value, Row]:
        return {
            value: compress(self._everything & ~words, self._everything) if without else compress(words, self._nothing)
            for value, (words,) in holders(self._size, pairs)
        }

    def _accepting(
        self, creatives: Sequence[Creative], values: Callable[[Creative], Sequence[Value]]
    ) -> dict[Value | None, Row]:
        """The rows of every value and, under None, of the creatives without one; empty when no creative has any."""
        rows: dict[Value | None, Row] = {**self._rows(_pairs(creatives, values))}
        if rows:
            indifferent = np.array([not values(one) for one in creatives], dtype=np.bool_)
            rows[None] = bitmap.from_mask(indifferent)
        return rows

    def _compile_durations(self) -> tuple[list[int], list[Words]]:
        rows = {duration: expand(row) for duration, row in self._exact.items() if duration is not None}
        durations = sorted(rows)
        up_to = [self._nothing]
        for duration in durations:
            up_to.append(up_to[-1] | rows[duration])
        return durations, up_to


def _timed(creative: Creative) -> bool:
    return creative.format in (MediaFormat.VIDEO, MediaFormat.AUDIO)


def _duration(creative: Creative) -> tuple[int, ...]:
    return (creative.duration_seconds,) if _timed(creative) and creative.duration_seconds else ()


def _pairs(creatives: Sequence[Creative], values: Callable[[Creative], Iterable[Value]]) -> Iterable[tuple[Value, int]]:
    return ((value, number) for number, one in enumerate(creatives) for value in values(one))
