"""Which values and pairs of values have statistics of their own: what is believed to matter, coarse to fine."""

from models.features.columns import AD_CATEGORY_COLUMNS, CONTENT_CATEGORY_COLUMNS, SEGMENT_COLUMNS
from models.serving.statistics import Group

#: The hierarchy of ads, coarse to fine: all that the prior knows.
HIERARCHY = (
    Group(name="format", ad=("format",)),
    Group(name="advertiser", ad=("advertiser_id",)),
    Group(name="line_item", ad=("line_item_id",)),
    Group(name="creative", ad=("creative_id",)),
)

#: Everything the models know. The order is the order of fitting: what comes first explains what it can.
FULL = (
    Group(name="device", request=("device",)),
    Group(name="position", request=("position",)),
    Group(name="size", request=("slot_width",), ad=("width",)),
    *HIERARCHY,
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

#: Numbers that the trees see as they are.
REQUEST_NUMBERS = (
    "device",
    "hour",
    "position",
    "floor_micros_cpm",
    "segment_count",
    "exposures",
    "exposure_age_seconds",
)
AD_NUMBERS = ("width", "height", "duration_seconds")
