"""One impression of a request, normalised: the only thing that decisions and features read."""

from enum import StrEnum
from hashlib import blake2b

import msgspec

from dsp.kernel.money import Micros


class DeviceKind(StrEnum):
    """OpenRTB device types (list 5.21) folded to what targeting tells apart."""

    DESKTOP = "desktop"
    PHONE = "phone"
    TABLET = "tablet"
    TV = "tv"
    OTHER = "other"


class Permissions(msgspec.Struct, frozen=True, gc=False):
    """What privacy signals let us do with this request (decided by dsp.privacy)."""

    may_bid: bool = True
    may_store: bool = True  # keep state about this user, such as exposures for frequency caps
    may_personalise: bool = True  # use segments and state about this user to choose and price an ad


class DurationFloors(msgspec.Struct, frozen=True, gc=False):
    """Floors by how long a video or audio ad lasts (OpenRTB 2.6, 7.11)."""

    per_second_micros_cpm: Micros = 0
    bands: tuple[tuple[int, int, Micros], ...] = ()  # shortest and longest in seconds, and the floor

    def floor(self, seconds: int) -> Micros:
        """Return the floor of an ad: the first band's that it is in, or else what it costs by the second."""
        for shortest, longest, floor in self.bands:
            if shortest <= seconds <= longest:
                return floor
        return self.per_second_micros_cpm * seconds


class DealOffer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A deal that the impression offers. `auction` is OpenRTB `at`: 1 first, 2 second, 3 fixed price."""

    id: str
    floor_micros_cpm: Micros  # in the book's currency
    auction: int
    seats: frozenset[str] = frozenset()  # wseat of the deal; empty admits all
    advertiser_domains: frozenset[str] = frozenset()  # wadomain; empty admits all
    duration_floors: DurationFloors | None = None


class Video(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a video or audio slot accepts; empty sets mean the exchange did not say."""

    duration_seconds_min: int
    duration_seconds_max: int
    protocols: frozenset[int]
    placement: int | None  # 2.6 plcmt, else 2.5 placement, whose numbers mean other things, below zero
    skippable: bool  # the player lets an ad be skipped, and nothing blocks that
    skip_min_seconds: int = 0  # only longer ads may be skipped
    skip_after_seconds: int = 0  # and only after so long; 0 where the exchange did not say
    durations_required: frozenset[int] = frozenset()  # rqddurs: one of these as well, where not empty
    bitrate_kbps_min: int = 0
    bitrate_kbps_max: int = 2**31 - 1
    deliveries: frozenset[int] = frozenset()  # AdCOM list "Delivery Methods": 1 streaming, 2 progressive
    omid: bool = False  # it runs verification scripts of Open Measurement
    audio: "Video | None" = None  # what it accepts of audio ads, where the impression offers both a video and audio


class Opportunity(msgspec.Struct, frozen=True, gc=False):
    """Built by `dsp.openrtb.normalise.opportunities`, group by group in the order of the fields.

    Strings are lower case unless said, but for identifiers that are echoed (auction, impression, deal); "" means
    absent; money is in the book's currency.
    """

    auction_id: str
    imp_id: str
    exchange: str
    at_ms: int
    lots: blake2b  # under a secret key, of 8 bytes: makes the lot
    test: bool
    first_price: bool  # auction type of the open auction
    tmax_ms: int
    # The slot
    formats: frozenset[str]  # MediaFormat values offered
    sizes: tuple[tuple[int, int], ...]  # banner sizes offered; for video the player's size
    video: Video | None
    native_request: str
    mimes: frozenset[str]  # empty: anything
    apis: frozenset[int]
    blocked_attributes: frozenset[int]
    position: int
    interstitial: bool
    rewarded: bool
    secure: bool
    floor_micros_cpm: Micros
    placement: str
    deals: tuple[DealOffer, ...]
    private_auction: bool
    # The inventory
    inventory: str  # "site" | "app" | "dooh", "" where the request names none (it need not)
    domain: str
    bundle: str
    publisher: str
    categories: frozenset[str]  # site/app/page/section/content categories, IAB codes upper case
    content_language: str
    # The device
    device: DeviceKind
    os: str
    os_version: str
    browser: str
    make: str
    model: str
    language: str
    connection: int
    # The place and time
    country: str  # alpha-3, upper case
    region: str  # "USA-CA"
    city: str  # "USA-los angeles"
    postcode: str
    utc_offset_minutes: int
    # The user
    user_key: str  # pseudonymous, "" when unknown or when privacy signals forbid it
    segments: frozenset[str]
    may_store: bool  # may we keep state about this user
    may_personalise: bool  # may we use state about this user
    # Blocks on the whole request
    blocked_categories: frozenset[str]
    blocked_advertisers: frozenset[str]  # domains, lower case
    blocked_apps: frozenset[str]
    languages_allowed: frozenset[str]
    currency: str  # what we will quote our price in
    currency_rate: float  # book units per unit of `currency`
    allowed_categories: frozenset[str] = frozenset()  # empty allows all
    #: What `blocked_categories` and `allowed_categories` are of: a content taxonomy's number in AdCOM, 0 for any other.
    category_taxonomy: int = 1
    #: What a bid has to disclose of itself: 0 nothing, 1 who pays for it, 2 by what it was chosen as well.
    disclosure: int = 0
    duration_floors: DurationFloors | None = None  # of the open auction
    blocked_types: frozenset[int] = frozenset()  # of banner markup, OpenRTB list 5.2
    expires_seconds: int = 3_600  # after the auction nothing is set aside any more for a bid
    pod: str = ""  # the break of which this slot is a part, among those of the request

    @property
    def lot(self) -> int:
        """Return 64 bits that no stranger can foretell: all that is left to chance is drawn from them.

        Exchanges choose the ids, and one that sends again those that it liked the answer to is not to get it again.
        Made when it is asked for: most impressions have nobody to draw lots for.
        """
        keyed = self.lots.copy()
        keyed.update(f"{self.auction_id}\0{self.imp_id}\0{self.at_ms}".encode())
        return int.from_bytes(keyed.digest(), "little")
