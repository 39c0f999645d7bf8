"""The ONLY feature definition: the names, order and meaning of the raw feature columns.

Raw features are int64: stable hashes of strings (0 means absent), codes, counts, micros. They are logged as they are,
so online and offline values can be compared exactly. What models make of them is models.features.platform.
"""

import hashlib
import json

from dsp.catalog.entities import MediaFormat
from dsp.catalog.terms import GoalKind
from dsp.openrtb.opportunity import DeviceKind

#: How many values of a set are kept (the first in sorted order). A model treats the columns of a set alike.
#: Categories are IAB's top level.
SEGMENT_SLOTS = 6
CONTENT_CATEGORY_SLOTS = 4
AD_CATEGORY_SLOTS = 2
#: How many of a user's latest impressions are told one by one.
HISTORY_SLOTS = 6
#: How many of a user's latest clicks, and of the latest conversions.
CLICK_SLOTS = 3
CONVERSION_SLOTS = 2

#: Code of each value, from 1 on; 0 is absent. Appending is compatible, reordering is not.
DEVICE_CODES = {device: code for code, device in enumerate(DeviceKind, 1)}
FORMAT_CODES = {media: code for code, media in enumerate(MediaFormat, 1)}
GOAL_CODES = {goal: code for code, goal in enumerate(GoalKind, 1)}


def _numbered(name: str, slots: int) -> tuple[str, ...]:
    return tuple(f"{name}_{slot}" for slot in range(1, slots + 1))


SEGMENT_COLUMNS = _numbered("segment", SEGMENT_SLOTS)
CONTENT_CATEGORY_COLUMNS = _numbered("content_category", CONTENT_CATEGORY_SLOTS)
HISTORY_CAMPAIGN_COLUMNS = _numbered("history_campaign", HISTORY_SLOTS)
HISTORY_AGE_COLUMNS = _numbered("history_age_seconds", HISTORY_SLOTS)
CLICKED_ADVERTISER_COLUMNS = _numbered("clicked_advertiser", CLICK_SLOTS)
CLICKED_CAMPAIGN_COLUMNS = _numbered("clicked_campaign", CLICK_SLOTS)
CLICKED_CREATIVE_COLUMNS = _numbered("clicked_creative", CLICK_SLOTS)
CLICKED_CATEGORY_COLUMNS = _numbered("clicked_category", CLICK_SLOTS)
CONVERTED_ADVERTISER_COLUMNS = _numbered("converted_advertiser", CONVERSION_SLOTS)
CONVERTED_CATEGORY_COLUMNS = _numbered("converted_category", CONVERSION_SLOTS)
AD_CATEGORY_COLUMNS = _numbered("ad_category", AD_CATEGORY_SLOTS)

#: What is remembered of the user, as of the request. Ages are in seconds, -1 without; ids and categories 0 without.
USER_COLUMNS: tuple[str, ...] = (
    "exposures",  # impressions remembered
    *HISTORY_CAMPAIGN_COLUMNS,  # of the latest of them, newest first
    *HISTORY_AGE_COLUMNS,
    "clicks",  # impressions clicked, of those remembered
    "click_age_seconds",  # of the latest
    *CLICKED_ADVERTISER_COLUMNS,  # of the latest, newest first
    *CLICKED_CAMPAIGN_COLUMNS,
    *CLICKED_CREATIVE_COLUMNS,
    *CLICKED_CATEGORY_COLUMNS,
    "conversions",  # impressions that led to one, of those remembered
    "conversion_age_seconds",
    *CONVERTED_ADVERTISER_COLUMNS,
    *CONVERTED_CATEGORY_COLUMNS,
)

#: One row an impression: the slot, the inventory, the device, place and time, the user.
REQUEST_COLUMNS: tuple[str, ...] = (
    "exchange",
    "first_price",
    "position",
    "interstitial",
    "rewarded",
    "floor_micros_cpm",
    "placement",
    "slot_width",  # of the first size offered, pixels
    "slot_height",
    "video_placement",
    "skippable",
    "inventory",
    "domain",  # of the site, or the app's bundle
    "publisher",
    "content_language",
    *CONTENT_CATEGORY_COLUMNS,
    "device",
    "os",
    "browser",
    "make",
    "model",
    "language",
    "connection",
    "country",
    "region",
    "city",
    "hour",  # 0 to 23, at the user's place
    "weekday",  # Monday is 0
    "user_known",
    "segment_count",
    *SEGMENT_COLUMNS,
    *USER_COLUMNS,
)

#: Columns whose values come together again and again: the slot and where it is, device, place and time, and what is
#: known of the user, most often nothing. What a model makes of each may be remembered; this is no part of the encoding.
REQUEST_CONTEXTS: tuple[tuple[str, ...], ...] = (
    (
        "position", "interstitial", "rewarded", "placement", "slot_width", "slot_height", "video_placement",
        "skippable", "inventory", "domain", "publisher", "content_language", *CONTENT_CATEGORY_COLUMNS,
    ),
    (
        "exchange", "first_price", "device", "os", "browser", "make", "model", "language", "connection", "country",
        "region", "city", "hour", "weekday",
    ),
    ("user_known", "segment_count", *SEGMENT_COLUMNS),
    USER_COLUMNS,
)  # fmt: skip

#: One row a creative.
AD_COLUMNS: tuple[str, ...] = (
    "advertiser_id",
    "campaign_id",
    "line_item_id",
    "creative_id",
    *AD_CATEGORY_COLUMNS,
    "format",
    "width",
    "height",
    "duration_seconds",
    "goal_kind",
    "ad_language",
)

#: Raise it when a column keeps its name and changes its meaning.
_ENCODING = 1


def _feature_hash() -> str:
    codes = [list(DEVICE_CODES), list(FORMAT_CODES), list(GOAL_CODES)]
    parts = [_ENCODING, REQUEST_COLUMNS, AD_COLUMNS, codes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


#: The identity of the raw columns, as decisions and bundles state it. Rows of another hash were made by another
#: definition: a model must not be trained on them, nor score them.
FEATURE_HASH = _feature_hash()
