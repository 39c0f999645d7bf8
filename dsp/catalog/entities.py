"""Advertiser > Campaign > LineItem > Creative, with deals and conversion rules beside them.

Entities are immutable values as the store returns them; `dsp.store` holds their versions and audit trail.
"""

from enum import StrEnum

import msgspec

from dsp.catalog.rules import Targeting
from dsp.catalog.status import Status
from dsp.catalog.terms import Budget, Daypart, Flight, FrequencyCap, Goal, PacingMode
from dsp.kernel.money import Micros
from dsp.openrtb.tracker import Tracker


class MediaFormat(StrEnum):
    """The media a creative is and an impression accepts."""

    BANNER = "banner"
    VIDEO = "video"
    AUDIO = "audio"
    NATIVE = "native"


class _Entity(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    id: int
    name: str
    external_id: str | None = None
    status: Status = Status.DRAFT
    version: int = 1


class Advertiser(_Entity, frozen=True, kw_only=True):
    """Who pays. `timezone` (IANA name) decides when its days begin; `domain` is what blocks (badv) look at."""

    domain: str
    categories: tuple[str, ...] = ()
    timezone: str = "UTC"
    frequency_caps: tuple[FrequencyCap, ...] = ()


class Campaign(_Entity, frozen=True, kw_only=True):
    """A budget and a flight that its line items share."""

    advertiser_id: int
    budget: Budget = Budget()
    flight: Flight
    frequency_caps: tuple[FrequencyCap, ...] = ()


class LineItem(_Entity, frozen=True, kw_only=True):
    """What bids: goal, budget, flight, targeting, caps. Its campaign's bounds hold as well."""

    campaign_id: int
    goal: Goal
    budget: Budget = Budget()
    flight: Flight
    pacing: PacingMode = PacingMode.EVEN
    dayparts: tuple[Daypart, ...] = ()
    targeting: Targeting = Targeting()
    frequency_caps: tuple[FrequencyCap, ...] = ()
    bid_min_micros_cpm: Micros | None = None
    bid_max_micros_cpm: Micros | None = None


class Creative(_Entity, frozen=True, kw_only=True):
    """An ad of a line item. `markup` is HTML for a banner, native JSON, and for video and audio the URL of the media
    file, or of another ad server's VAST document where `mime` is that of one.

    `landing_url` is where a click leads: the only place our redirect goes to.
    `attributes` are OpenRTB creative attributes (list 5.3), `apis` and `protocols` the lists 5.6 and 5.8.
    """

    line_item_id: int
    format: MediaFormat
    landing_url: str
    markup: str
    width: int | None = None
    height: int | None = None
    duration_seconds: int | None = None
    mime: str | None = None
    bitrate_kbps: int | None = None
    categories: tuple[str, ...] = ()
    attributes: tuple[int, ...] = ()
    apis: tuple[int, ...] = ()
    protocols: tuple[int, ...] = ()
    secure: bool = True
    language: str | None = None
    trackers: tuple[Tracker, ...] = ()


class AuctionType(StrEnum):
    """How a deal is priced."""

    FIRST_PRICE = "first_price"
    SECOND_PRICE = "second_price"
    FIXED_PRICE = "fixed_price"


class Deal(_Entity, frozen=True, kw_only=True):
    """A private deal. Line items name it in targeting on `Dimension.DEAL` by its `deal_id` on the exchange."""

    exchange: str
    deal_id: str
    price_micros_cpm: Micros | None = None
    auction: AuctionType = AuctionType.FIRST_PRICE


class Audience(_Entity, frozen=True, kw_only=True):
    """A named segment that targeting may refer to by `segment_id`."""

    advertiser_id: int
    segment_id: str


#: Of a conversion rule that says no other, and of what converts where there is no rule.
CONVERSION_WINDOW_SECONDS = 30 * 24 * 3600


class ConversionRule(_Entity, frozen=True, kw_only=True):
    """What counts as a conversion: what a click led to, within `window_seconds` of the bid. `post_view` is refused."""

    advertiser_id: int
    window_seconds: int = CONVERSION_WINDOW_SECONDS
    post_view: bool = False
    value_micros: Micros | None = None


class Catalogue(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """All entities at one instant; what a snapshot is built from."""

    advertisers: tuple[Advertiser, ...] = ()
    campaigns: tuple[Campaign, ...] = ()
    line_items: tuple[LineItem, ...] = ()
    creatives: tuple[Creative, ...] = ()
    deals: tuple[Deal, ...] = ()
    audiences: tuple[Audience, ...] = ()
    conversion_rules: tuple[ConversionRule, ...] = ()
