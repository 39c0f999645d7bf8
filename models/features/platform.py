"""The platform's feature spec: which values and pairs of values are believed to matter to a click."""

from models.features.columns import (
    AD_CATEGORY_COLUMNS,
    AD_COLUMNS,
    CLICKED_ADVERTISER_COLUMNS,
    CLICKED_CAMPAIGN_COLUMNS,
    CLICKED_CATEGORY_COLUMNS,
    CLICKED_CREATIVE_COLUMNS,
    CONTENT_CATEGORY_COLUMNS,
    CONVERTED_ADVERTISER_COLUMNS,
    CONVERTED_CATEGORY_COLUMNS,
    HISTORY_AGE_COLUMNS,
    HISTORY_CAMPAIGN_COLUMNS,
    REQUEST_COLUMNS,
    SEGMENT_COLUMNS,
)
from models.features.spec import FeatureSpec, Group, Match

#: The hierarchy of ads, coarse to fine: all that the prior knows.
_HIERARCHY = (
    Group(name="format", ad=("format",)),
    Group(name="advertiser", ad=("advertiser_id",)),
    Group(name="line_item", ad=("line_item_id",)),
    Group(name="creative", ad=("creative_id",)),
)

#: Everything the models know. The order is the order of fitting: what comes first explains what it can.
_GROUPS = (
    Group(name="device", request=("device",)),
    Group(name="position", request=("position",)),
    Group(name="size", request=("slot_width",), ad=("width",)),
    *_HIERARCHY,
    Group(name="domain", request=("domain",)),
    Group(name="os", request=("os",)),
    Group(name="browser", request=("browser",)),
    Group(name="country", request=("country",)),
    Group(name="hour", request=("hour",)),
    Group(name="exchange", request=("exchange",)),
    Group(name="placement", request=("placement",)),
    Group(name="content_category", request=CONTENT_CATEGORY_COLUMNS),
    Group(name="segment", request=SEGMENT_COLUMNS),
    Group(name="segment_x_ad_category", request=SEGMENT_COLUMNS, ad=AD_CATEGORY_COLUMNS),
    Group(name="content_x_ad_category", request=CONTENT_CATEGORY_COLUMNS, ad=AD_CATEGORY_COLUMNS),
    Group(name="device_x_advertiser", request=("device",), ad=("advertiser_id",)),
    Group(name="segment_x_advertiser", request=SEGMENT_COLUMNS, ad=("advertiser_id",)),
    Group(name="domain_x_advertiser", request=("domain",), ad=("advertiser_id",)),
    Group(name="hour_x_advertiser", request=("hour",), ad=("advertiser_id",)),
)

PLATFORM = FeatureSpec(
    request_columns=REQUEST_COLUMNS,
    ad_columns=AD_COLUMNS,
    groups=_GROUPS,
    hierarchy=_HIERARCHY,
    request_numbers=(
        "device",
        "hour",
        "position",
        "floor_micros_cpm",
        "segment_count",
        "exposures",
        "history_age_seconds_1",
        "clicks",
        "click_age_seconds",
        "conversions",
        "conversion_age_seconds",
    ),
    ad_numbers=("width", "height", "duration_seconds"),
    matches=(
        Match(name="seen_campaign", request=HISTORY_CAMPAIGN_COLUMNS, ad="campaign_id"),
        Match(name="clicked_advertiser", request=CLICKED_ADVERTISER_COLUMNS, ad="advertiser_id"),
        Match(name="clicked_campaign", request=CLICKED_CAMPAIGN_COLUMNS, ad="campaign_id"),
        Match(name="clicked_creative", request=CLICKED_CREATIVE_COLUMNS, ad="creative_id"),
        Match(name="clicked_category", request=CLICKED_CATEGORY_COLUMNS, ad="ad_category_1"),
        Match(name="converted_advertiser", request=CONVERTED_ADVERTISER_COLUMNS, ad="advertiser_id"),
        Match(name="converted_category", request=CONVERTED_CATEGORY_COLUMNS, ad="ad_category_1"),
    ),
    sequence=tuple(zip(HISTORY_CAMPAIGN_COLUMNS, HISTORY_AGE_COLUMNS, strict=True)),
    calibrate_by=(Group(name="exchange", request=("exchange",)), Group(name="campaign", ad=("campaign_id",))),
)
