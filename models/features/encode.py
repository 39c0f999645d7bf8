"""Encodes opportunities and snapshots as raw feature rows. The bidder, the tests and offline jobs all call this."""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import Advertiser, Creative
from dsp.catalog.exposures import ROW_BYTES, shown
from dsp.catalog.user import Response, UserRecord
from dsp.kernel.clock import MS_PER_MINUTE
from dsp.kernel.remember import Remembered
from dsp.openrtb.opportunity import Opportunity
from models.features.columns import (
    AD_CATEGORY_SLOTS,
    AD_COLUMNS,
    CLICK_SLOTS,
    CONTENT_CATEGORY_SLOTS,
    CONVERSION_SLOTS,
    DEVICE_CODES,
    FORMAT_CODES,
    GOAL_CODES,
    HISTORY_SLOTS,
    SEGMENT_SLOTS,
)

if TYPE_CHECKING:
    from dsp.snapshot.build import Snapshot

_INT64_MAX = 2**63 - 1
#: Nobody's name for anything is longer; strangers may send hundreds of thousands of characters, which are not kept.
_TEXT_CHARS_MAX = 256
#: Sets of no more categories are remembered; who names more means nothing by it.
_CATEGORIES_MAX = 16
_MINUTES_PER_DAY = 1_440
_ABSENT, _AGELESS = (0,) * HISTORY_SLOTS, (-1,) * HISTORY_SLOTS
_HISTORY_BYTES = HISTORY_SLOTS * ROW_BYTES
_NO_HISTORY = (0, *_ABSENT, *_AGELESS)
_NO_CLICKS = (0, -1, *(0,) * (4 * CLICK_SLOTS))
_NO_CONVERSIONS = (0, -1, *(0,) * (2 * CONVERSION_SLOTS))
_NO_RESPONSES = (*_NO_CLICKS, *_NO_CONVERSIONS)
_NOBODY = (*_NO_HISTORY, *_NO_RESPONSES)
_CLICKED, _CONVERTED = attrgetter("clicked_ms"), attrgetter("converted_ms")
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


def _hash(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 if text else 0


#: A hit is half of lru_cache's time, which moves what was hit to the front.
_HASHES = Remembered(_hash, entries_max=131_072, chars_max=_TEXT_CHARS_MAX, kept_chars_max=8_000_000)


def text_hash(text: str) -> int:
    """Return a stable non-negative 63-bit hash of a string; 0 for the empty string, which means absent."""
    return _HASHES[text]


def tier_one(category: str) -> str:
    """Return the top level of an IAB category ("IAB2" of "IAB2-3"): there is data enough for those."""
    return _TIERS[category]


def _tier_one(category: str) -> str:
    return category.partition("-")[0].upper()


_TIERS = Remembered(_tier_one, entries_max=16_384, chars_max=_TEXT_CHARS_MAX)


def request_row(opportunity: Opportunity, user: UserRecord | None) -> NDArray[np.int64]:
    """Return the impression's row, int64 of shape (R,), columns as REQUEST_COLUMNS. Never raises.

    `user` is left out of the row unless the opportunity permits personalising.
    """
    personal = user if opportunity.may_personalise else None
    width, height = opportunity.sizes[0] if opportunity.sizes else (0, 0)
    video = opportunity.video
    local_minutes = opportunity.at_ms // MS_PER_MINUTE + opportunity.utc_offset_minutes
    segments: Collection[str] = opportunity.segments if opportunity.may_personalise else ()
    if personal is not None and personal.segments:
        segments = {*segments, *personal.segments}
    hashes = _HASHES
    values = [
        hashes[opportunity.exchange],
        opportunity.first_price,
        opportunity.position,
        opportunity.interstitial,
        opportunity.rewarded,
        opportunity.floor_micros_cpm,
        hashes[opportunity.placement],
        width,
        height,
        (video.placement or 0) if video is not None else 0,
        video.skippable if video is not None else 0,
        hashes[opportunity.inventory],
        hashes[opportunity.domain or opportunity.bundle],
        hashes[opportunity.publisher],
        hashes[opportunity.content_language],
        *_content(opportunity.categories),
        DEVICE_CODES[opportunity.device],
        hashes[opportunity.os],
        hashes[opportunity.browser],
        hashes[opportunity.make],
        hashes[opportunity.model],
        hashes[opportunity.language],
        opportunity.connection,
        hashes[opportunity.country],
        hashes[opportunity.region],
        hashes[opportunity.city],
        local_minutes % _MINUTES_PER_DAY // 60,
        (local_minutes // _MINUTES_PER_DAY + _EPOCH_WEEKDAY) % 7,
        bool(opportunity.user_key),
        len(segments),
        *_slots(segments, SEGMENT_SLOTS),
        *user_values(personal, opportunity.at_ms),
    ]
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:  # an exchange sent a number that no one means
        return np.array([min(max(value, -_INT64_MAX), _INT64_MAX) for value in values], dtype=np.int64)


def ad_rows(snapshot: "Snapshot") -> NDArray[np.int64]:
    """Return one row a creative, int64 of shape (C, A), columns as AD_COLUMNS, in the order of snapshot.creatives."""
    rows = np.zeros((len(snapshot.creatives), len(AD_COLUMNS)), dtype=np.int64)
    for number, (creative, row) in enumerate(
        zip(snapshot.creatives, snapshot.creative_line_items.tolist(), strict=True)
    ):
        line_item = snapshot.line_items[row]
        advertiser = snapshot.advertisers[row]
        rows[number] = (
            advertiser.id,
            line_item.campaign_id,
            line_item.id,
            creative.id,
            *_slots(ad_categories(creative, advertiser), AD_CATEGORY_SLOTS),
            FORMAT_CODES[creative.format],
            creative.width or 0,
            creative.height or 0,
            creative.duration_seconds or 0,
            GOAL_CODES[line_item.goal.kind],
            text_hash(creative.language or ""),
        )
    return rows


def ad_categories(creative: Creative, advertiser: Advertiser) -> list[str]:
    """Return the categories of an ad at the top level, in sorted order."""
    return sorted({tier_one(category) for category in creative.categories or advertiser.categories})


def user_values(user: UserRecord | None, now_ms: int) -> Sequence[int]:
    """Return what a record tells by `now_ms`, columns as USER_COLUMNS; None is of a user who is not remembered.

    A record holds what its bidder has been told, so everything in it is known by now.
    """
    if user is None:
        return _NOBODY
    return [*_history(user.exposures, now_ms), *_responses(user.responses, now_ms)]


def _history(exposures: bytes, now_ms: int) -> Sequence[int]:
    """Return how many exposures there are, the campaigns of the latest, then their ages."""
    if not exposures:
        return _NO_HISTORY
    latest = [*shown(exposures[-_HISTORY_BYTES:])][::-1]
    ages = [(now_ms - at_ms) // 1_000 if at_ms < now_ms else 0 for at_ms, _ in latest]
    missing = HISTORY_SLOTS - len(latest)
    campaigns = [campaign_id for _, campaign_id in latest]
    return [len(exposures) // ROW_BYTES, *campaigns, *_ABSENT[:missing], *ages, *_AGELESS[:missing]]


def _responses(responses: Sequence[Response], now_ms: int) -> Sequence[int]:
    """Return clicks, then conversions: how many, the latest's age, and what the latest were of."""
    if not responses:
        return _NO_RESPONSES
    clicked, found = [one for one in responses if one.clicked_ms], [*_NO_RESPONSES]
    if clicked:
        clicked.sort(key=_CLICKED, reverse=True)
        found[:2] = len(clicked), max(0, now_ms - clicked[0].clicked_ms) // 1_000
        for slot, one in enumerate(clicked[:CLICK_SLOTS], 2):
            found[slot] = one.advertiser_id
            found[slot + CLICK_SLOTS] = one.campaign_id
            found[slot + 2 * CLICK_SLOTS] = one.creative_id
            found[slot + 3 * CLICK_SLOTS] = text_hash(one.category)
    converted = [one for one in responses if one.converted_ms]
    if converted:
        converted.sort(key=_CONVERTED, reverse=True)
        first = len(_NO_CLICKS)
        found[first : first + 2] = len(converted), max(0, now_ms - converted[0].converted_ms) // 1_000
        for slot, one in enumerate(converted[:CONVERSION_SLOTS], first + 2):
            found[slot] = one.advertiser_id
            found[slot + CONVERSION_SLOTS] = text_hash(one.category)
    return found


def _content(categories: frozenset[str]) -> Sequence[int]:
    """Return the slots of what a site or app is about, of which there are few kinds."""
    return _KNOWN_CONTENT[categories] if len(categories) <= _CATEGORIES_MAX else _content_slots(categories)


def _content_slots(categories: frozenset[str]) -> Sequence[int]:
    return _slots({tier_one(category) for category in categories}, CONTENT_CATEGORY_SLOTS)


_KNOWN_CONTENT = Remembered(_content_slots)


def _slots(values: Collection[str], slots: int) -> list[int]:
    hashes = [text_hash(value) for value in (sorted(values)[:slots] if len(values) > 1 else values)]
    hashes += [0] * (slots - len(hashes))
    return hashes
