"""Which creatives an impression can show: what it accepts and what its publisher blocks, as rows over creatives.

A block is one row a value, so matching costs by the blocks of the request, never by the number of candidates.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from dsp.catalog.entities import Creative, MediaFormat
from dsp.catalog.reasons import Exclusion
from dsp.kernel.errors import InputError
from dsp.openrtb.categories import FIRST, is_first
from dsp.openrtb.names import STORES, advertised_app, domain
from dsp.openrtb.native import NativeAssets, meets, read_assets, required
from dsp.openrtb.opportunity import Opportunity, Video
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits, Words
from dsp.targeting.deals import domain_and_parents
from dsp.targeting.joint import Group, Reasons, Step
from dsp.targeting.rows import Conditions, Row, Value, compress, expand, holders, known, union

#: A creative's place: its format, and for banners its size; what an impression must offer.
Slot = tuple[str, int, int]
_BANNER = MediaFormat.BANNER.value
_NATIVE = MediaFormat.NATIVE.value
_SLOT = attrgetter("formats", "sizes", "blocked_attributes", "secure", "mimes", "apis", "video", "native_request")
#: What native creatives differ in for slots: title, size of image and of icon, kinds of text, video.
_Shape = tuple[bool, tuple[int, int] | None, tuple[int, int] | None, frozenset[int], bool]


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
    """What creatives say of themselves to a slot; no other value makes a difference."""

    attributes: frozenset[int]
    apis: frozenset[int]
    mimes: frozenset[str | None]
    protocols: frozenset[int | None]
    durations: frozenset[int | None]


class Owners:
    """Whose each creative is: `rows` are their line items', ascending, of `size` line items."""

    def __init__(self, rows: Sequence[int], size: int) -> None:
        self.size, self._creatives = size, len(rows)
        self._start = np.searchsorted(np.fromiter(rows, dtype=np.int64), np.arange(size + 1))

    def of(self, creatives: Words) -> Bits:
        """Return the line items with at least one of the creatives."""
        before = np.zeros(self._creatives + 1, dtype=np.int32)
        np.cumsum(bitmap.mask(creatives)[: self._creatives], out=before[1:])
        begun = before.take(self._start)
        return bitmap.to_bits(bitmap.from_mask(begun[1:] != begun[:-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Fitting:
    """The creatives for which all conditions of a group hold, and whose they are. Equal to no other, however alike."""

    creatives: Words
    line_items: Bits


class Matcher:
    """The creatives of a snapshot, compiled.

    `categories` are each creative's own and its advertiser's; `servable` says which may be shown at all.
    """

    def __init__(
        self,
        creatives: Sequence[Creative],
        categories: Sequence[frozenset[str]],
        servable: Sequence[bool],
        owners: Owners,
    ) -> None:
        self._slot, self._publisher = _Slots(creatives, servable, owners), _Publishers(creatives, categories, owners)
        self._owners = owners
        self._reasons = Reasons(bitmap.ones(len(creatives)).nbytes + bitmap.ones(owners.size).nbytes)

    def rows(self, opportunity: Opportunity) -> tuple[Fitting, Fitting]:
        """Return two rows that have in common the creatives that an impression can show.

        A line item with such a creative is in both; one with a creative in each need not have one that is in both.
        """
        return self._slot.row(opportunity), self._publisher.row(opportunity)

    def conditions(self, opportunity: Opportunity) -> Conditions:
        """Return one by one the conditions that `rows` folds together."""
        out = Conditions()
        self._slot.require(opportunity, out)
        self._publisher.require(opportunity, out)
        return out

    def lost(self, opportunity: Opportunity, rows: tuple[Fitting, Fitting], members: Bits) -> Exclusion:
        """Return the reason, in the order of the funnel, that loses the last creative of `members`, at least one.

        `rows` have no creative of theirs in common.
        """

        def steps() -> Sequence[Step]:
            found, left = dict[Exclusion, Words](), None
            for reason, words in self.conditions(opportunity).in_order():
                left = found[reason] = words if left is None else left & words
            return [(reason, self._owners.of(words)) for reason, words in found.items()]

        return self._reasons.lost(members, rows, steps)


class _Creatives(Group[Opportunity, Fitting]):
    """A group of conditions on `size` creatives."""

    def __init__(self, spelling: Callable[[Opportunity], Hashable], size: int, owners: Owners) -> None:
        everyone = bitmap.ones(size)
        super().__init__(spelling, everyone.nbytes + bitmap.ones(owners.size).nbytes)
        self._everyone, self._owners = Fitting(everyone, owners.of(everyone)), owners

    def fold(self, conditions: Conditions) -> Fitting:
        """Return those for which all conditions hold."""
        if not conditions.rows:
            return self._everyone
        words = conditions.intersection()
        return Fitting(words, self._owners.of(words))


class _Slots(_Creatives):
    """What the slot takes: a place, and what it says of MIME types, frameworks, attributes and players."""

    def __init__(self, creatives: Sequence[Creative], servable: Sequence[bool], owners: Owners) -> None:
        super().__init__(_SLOT, len(creatives), owners)
        size = len(creatives)
        self._nothing = bitmap.zeros(size)
        self._slots = _holding(size, ((slot_of(one), n) for n, one in enumerate(creatives) if servable[n]))
        self._banner_slots = [slot for slot in self._slots if slot[0] == _BANNER]
        self._sizes = frozenset([slot[1:] for slot in self._banner_slots])
        # What is blocked value by value: the row of a value is what a block on it leaves.
        self._attributes = _lacking(size, _pairs(creatives, lambda one: one.attributes))
        self._apis = _lacking(size, _pairs(creatives, lambda one: one.apis))
        self._insecure = _lacking(size, _pairs(creatives, lambda one: () if one.secure else (True,)))
        # What is accepted value by value: a creative that names no value is indifferent.
        self._mimes = _accepting(creatives, lambda one: (one.mime.lower(),) if one.mime else ())
        self._protocols = _accepting(creatives, lambda one: one.protocols if _timed(one) else ())
        self._exact = _accepting(creatives, _duration)
        self._durations, self._up_to = self._compile_durations()
        #: One native creative's assets for all of its shape.
        self._assets: dict[_Shape, NativeAssets] = {}
        self._shapes = _holding(size, self._native(creatives, servable))
        self._not_native = bitmap.from_mask(
            np.array([one.format.value != _NATIVE for one in creatives], dtype=np.bool_)
        )
        self._named = _Named(
            frozenset(self._attributes),
            frozenset(self._apis),
            frozenset(self._mimes),
            frozenset(self._protocols),
            frozenset(self._exact),
        )

    def key(self, opportunity: Opportunity) -> Hashable:
        """Return what of the slot makes a difference to some creative."""
        video, named, sizes = opportunity.video, self._named, opportunity.sizes
        return (
            opportunity.formats,
            self._sizes.intersection(sizes),
            not sizes,
            opportunity.blocked_attributes & named.attributes,
            opportunity.secure,
            known(opportunity.mimes, named.mimes),
            opportunity.apis & named.apis,
            video
            and (
                known(video.protocols, named.protocols),
                known(video.durations_required, named.durations),
                bisect_left(self._durations, video.duration_seconds_min),
                bisect_right(self._durations, video.duration_seconds_max),
            ),
            self._meeting(opportunity),
        )

    def require(self, opportunity: Opportunity, out: Conditions) -> None:
        """Add the conditions that can bind."""
        rows = [self._slots[slot] for slot in slots_of(opportunity, self._banner_slots) if slot in self._slots]
        out.require(Exclusion.SIZE, union(rows) if rows else self._nothing)
        for attribute in opportunity.blocked_attributes & self._attributes.keys():
            out.require(Exclusion.ATTRIBUTE_BLOCKED, expand(self._attributes[attribute]))
        if opportunity.secure and self._insecure:
            out.require(Exclusion.CREATIVE_INSECURE, expand(self._insecure[True]))
        if opportunity.mimes:
            _accept(Exclusion.MIME_UNSUPPORTED, self._mimes, opportunity.mimes, out)
        # OpenRTB 2.6, 3.2.6 `api`: a framework that is not listed is not supported.
        for api in self._apis.keys() - opportunity.apis:
            out.require(Exclusion.API_UNSUPPORTED, expand(self._apis[api]))
        if opportunity.video is not None:
            self._require_player(opportunity.video, out)
        shapes = self._meeting(opportunity)
        if shapes is not None:
            out.require(Exclusion.NATIVE_ASSETS, union([self._not_native, *[self._shapes[one] for one in shapes]]))

    def _require_player(self, video: Video, out: Conditions) -> None:
        if video.protocols:
            _accept(Exclusion.PROTOCOL_UNSUPPORTED, self._protocols, video.protocols, out)
        if video.durations_required:
            _accept(Exclusion.DURATION, self._exact, video.durations_required, out)
        elif self._durations:
            # _up_to[i] are the creatives that last as long as one of the i shortest durations.
            too_short = self._up_to[bisect_left(self._durations, video.duration_seconds_min)]
            not_too_long = self._up_to[bisect_right(self._durations, video.duration_seconds_max)]
            too_long = self._up_to[-1] & ~not_too_long
            out.require(Exclusion.DURATION, self._everyone.creatives & ~(too_short | too_long))

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

    def _compile_durations(self) -> tuple[list[int], list[Words]]:
        rows = {duration: expand(row) for duration, row in self._exact.items() if duration is not None}
        durations = sorted(rows)
        up_to = [self._nothing]
        for duration in durations:
            up_to.append(up_to[-1] | rows[duration])
        return durations, up_to


class _Publishers(_Creatives):
    """What the publisher wants: blocks on where ads lead to and on categories, and languages.

    Blocks on an advertiser's own domain are its line items' (`dsp.targeting.groups.Advertisers`).
    """

    def __init__(self, creatives: Sequence[Creative], categories: Sequence[frozenset[str]], owners: Owners) -> None:
        super().__init__(self._spelling_of, len(creatives), owners)
        self._apps = _lacking(len(creatives), _pairs(creatives, _app))
        self._sites = _lacking(len(creatives), _pairs(creatives, _sites))
        pairs = (
            (name, n) for n, values in enumerate(categories) for value in values for name in category_and_parents(value)
        )
        self._categories = _lacking(len(creatives), pairs)
        #: By code, without what is above it: those that lack it.
        self._stated = _lacking(len(creatives), ((code, n) for n, values in enumerate(categories) for code in values))
        self._nobody = bitmap.zeros(len(creatives))
        self._later = bitmap.from_mask(
            np.array([not all(map(is_first, values)) for values in categories], dtype=np.bool_)
        )
        self._languages = _accepting(creatives, lambda one: (one.language.lower(),) if one.language else ())
        self._apps_named, self._sites_named = frozenset(self._apps), frozenset(self._sites)
        self._categories_named, self._languages_named = frozenset(self._categories), frozenset(self._languages)

    def _spelling_of(self, opportunity: Opportunity) -> Hashable:
        # Lists of advertisers and of apps are long, and few of them make a difference.
        return (
            opportunity.blocked_advertisers & self._sites_named,
            opportunity.blocked_apps & self._apps_named,
            opportunity.blocked_categories,
            opportunity.allowed_categories,
            opportunity.category_taxonomy,
            opportunity.languages_allowed,
        )

    def key(self, opportunity: Opportunity) -> Hashable:
        """Return the sites, apps, categories and languages that some creative has."""
        return (
            opportunity.blocked_advertisers & self._sites_named,
            opportunity.blocked_apps & self._apps_named,
            opportunity.blocked_categories & self._categories_named,
            opportunity.allowed_categories & self._categories_named,
            frozenset(map(is_first, opportunity.allowed_categories)),
            self._unequal(opportunity),
            known(opportunity.languages_allowed, self._languages_named),
        )

    def require(self, opportunity: Opportunity, out: Conditions) -> None:
        """Add the conditions that can bind."""
        for site in opportunity.blocked_advertisers & self._sites_named:
            out.require(Exclusion.ADVERTISER_BLOCKED, expand(self._sites[site]))
        for app in opportunity.blocked_apps & self._apps_named:
            out.require(Exclusion.APP_BLOCKED, expand(self._apps[app]))
        unequal = self._unequal(opportunity)
        if unequal is not None:
            out.require(Exclusion.CATEGORY_UNKNOWN, self._later if unequal else self._nobody)
        if opportunity.allowed_categories:
            self._require_allowed(opportunity.allowed_categories, out)
        for value in opportunity.blocked_categories & self._categories.keys():
            out.require(Exclusion.CATEGORY_BLOCKED, expand(self._categories[value]))
        if opportunity.languages_allowed:
            _accept(Exclusion.CREATIVE_LANGUAGE, self._languages, opportunity.languages_allowed, out)

    def _unequal(self, opportunity: Opportunity) -> int | None:
        """Return the taxonomy of the categories listed where none of the first can equal all of them."""
        listed = opportunity.blocked_categories | opportunity.allowed_categories
        taxonomy = opportunity.category_taxonomy
        return taxonomy if taxonomy != FIRST and not all(map(is_first, listed)) else None

    def _require_allowed(self, allowed: frozenset[str], out: Conditions) -> None:
        """Add that a creative has an allowed category, and none of the same form that is not."""
        forms, some = {is_first(code) for code in allowed}, self._nobody
        for code, lacking in self._stated.items():
            if not allowed.isdisjoint(category_and_parents(code)):
                some = some | (self._everyone.creatives & ~expand(lacking))
            elif is_first(code) in forms:
                out.require(Exclusion.CATEGORY_BLOCKED, expand(lacking))
        out.require(Exclusion.CATEGORY_BLOCKED, some)


def _accept(reason: Exclusion, rows: Mapping[Value | None, Row], values: frozenset[Value], out: Conditions) -> None:
    if rows:
        named = [rows[value] for value in values & rows.keys()]
        out.require(reason, union([rows[None], *named]))


def _holding(size: int, pairs: Iterable[tuple[Value, int]]) -> dict[Value, Row]:
    nothing = bitmap.zeros(size)
    return {value: compress(words, nothing) for value, (words,) in holders(size, pairs)}


def _lacking(size: int, pairs: Iterable[tuple[Value, int]]) -> dict[Value, Row]:
    everything = bitmap.ones(size)
    return {value: compress(everything & ~words, everything) for value, (words,) in holders(size, pairs)}


def _accepting(creatives: Sequence[Creative], values: Callable[[Creative], Sequence[Value]]) -> dict[Value | None, Row]:
    """The rows of every value and, under None, of the creatives without one; empty when no creative has any."""
    rows: dict[Value | None, Row] = {**_holding(len(creatives), _pairs(creatives, values))}
    if rows:
        indifferent = np.array([not values(one) for one in creatives], dtype=np.bool_)
        rows[None] = bitmap.from_mask(indifferent)
    return rows


def _shape(assets: NativeAssets) -> _Shape:
    image, icon = [(one.w, one.h) if one is not None else None for one in (assets.image, assets.icon)]
    texts = frozenset([kind for kind, value in assets.data.items() if value])
    return bool(assets.title), image, icon, texts, bool(assets.video_vast)


def _app(creative: Creative) -> tuple[str, ...]:
    app = advertised_app(creative.landing_url).lower()
    return (app,) if app else ()


def _sites(creative: Creative) -> frozenset[str]:
    """Return the domain that an ad leads to and those above it; none of a store, which is not what is advertised."""
    host = domain(creative.landing_url)
    return frozenset() if host in STORES else domain_and_parents(host)


def _timed(creative: Creative) -> bool:
    return creative.format in (MediaFormat.VIDEO, MediaFormat.AUDIO)


def _duration(creative: Creative) -> tuple[int, ...]:
    return (creative.duration_seconds,) if _timed(creative) and creative.duration_seconds else ()


def _pairs(creatives: Sequence[Creative], values: Callable[[Creative], Iterable[Value]]) -> Iterable[tuple[Value, int]]:
    return ((value, number) for number, one in enumerate(creatives) for value in values(one))
