"""Every "no" in the system: why a request got no bid, and why one line item was not it.

`nbr` is the OpenRTB no-bid reason code (OpenRTB 3.0 list "No-Bid Reason Codes", used by 2.6 as well).
"""

from enum import Enum


class Exclusion(Enum):
    """A reason: metric label, OpenRTB code, and a sentence for people. Order is the order of the funnel."""

    nbr: int
    sentence: str

    def __new__(cls, label: str, nbr: int, sentence: str) -> "Exclusion":
        member = object.__new__(cls)
        member._value_ = label
        member.nbr = nbr
        member.sentence = sentence
        return member

    # The whole request
    NOT_READY = "not_ready", 1, "The bidder has no snapshot yet, or is draining."
    LOG_AWAY = "log_away", 1, "Notices cannot be made durable, so that nobody would charge what is won."
    OVERLOAD = "overload", 1, "More requests come than can be answered: they wait too long, or too many are in flight."
    RATE_LIMITED = "rate_limited", 1, "The exchange sends more requests than its agreed rate."
    TIME_SHORT = "time_short", 15, "Too little of tmax was left to answer in time."
    INTERNAL = "internal", 1, "The bidder failed; the fault is in its log."
    SEAT_NOT_ALLOWED = "seat_not_allowed", 0, "wseat or bseat does not let our seat bid."
    CURRENCY_UNSUPPORTED = "currency_unsupported", 0, "The request accepts no currency that we can convert."
    DISCLOSURE_UNSHOWN = (
        "disclosure_unshown",
        0,
        "An ad must say who pays for it (Digital Services Act), and the publisher does not show that.",
    )
    PRIVACY_FORBIDS = "privacy_forbids", 0, "Privacy signals forbid bidding at all."
    CRAWLER = "crawler", 3, "The user agent is a known crawler's, which sees no ads."
    SUPPLY_CHAIN_INCOMPLETE = "supply_chain_incomplete", 16, "The exchange must state a complete supply chain."
    # One impression
    IMPRESSION_BOUND = "impression_bound", 1, "The request offers more impressions than the bound; the first count."
    IMPRESSION_AMBIGUOUS = "impression_ambiguous", 2, "Another impression of the request has the same id."
    FORMAT_UNSUPPORTED = "format_unsupported", 0, "The impression offers no format that we can fill."
    QUANTITY_UNSUPPORTED = "quantity_unsupported", 0, "A win is billed as more or less than one impression."
    FLOOR_ABSURD = "floor_absurd", 2, "The floor is not a price."
    # Recall, one reason for each dimension of targeting
    INACTIVE = "inactive", 0, "The line item or one of its parents is not active."
    OUT_OF_FLIGHT = "out_of_flight", 0, "The flight has not begun or is over."
    DAYPART = "daypart", 0, "The hour is outside the line item's dayparts."
    EXCHANGE = "exchange", 0, "Targeting excludes the exchange."
    COUNTRY = "country", 0, "Targeting excludes the country."
    REGION = "region", 0, "Targeting excludes the region."
    CITY = "city", 0, "Targeting excludes the city."
    POSTCODE = "postcode", 0, "Targeting excludes the postcode."
    DEVICE = "device", 6, "Targeting excludes the device type."
    OS = "os", 6, "Targeting excludes the operating system."
    BROWSER = "browser", 6, "Targeting excludes the browser."
    FORMAT = "format", 0, "No creative of the format."
    SIZE = "size", 0, "No creative fits the size."
    INVENTORY = "inventory", 0, "Targeting excludes sites, apps or screens of this kind."
    DOMAIN = "domain", 7, "Targeting excludes the site's domain."
    BUNDLE = "bundle", 7, "Targeting excludes the app."
    PLACEMENT = "placement", 0, "Targeting excludes the placement."
    PUBLISHER = "publisher", 7, "Targeting excludes the publisher."
    CATEGORY = "category", 0, "Targeting excludes the content category."
    SEGMENT = "segment", 8, "The user is in none of the wanted segments, or in an excluded one."
    LANGUAGE = "language", 0, "Targeting excludes the language."
    DEAL = (
        "deal",
        0,
        "None of the deals that the line item wants is offered, active and open to it, or the auction is private.",
    )
    # Match: what bitmaps cannot hold
    ADVERTISER_BLOCKED = (
        "advertiser_blocked",
        0,
        "badv blocks the advertiser's domain or where the creative leads, or another of its ads is bid for the pod.",
    )
    APP_BLOCKED = "app_blocked", 0, "bapp blocks the app that the creative leads to."
    CATEGORY_UNKNOWN = (
        "category_unknown",
        0,
        "bcat or acat is of a taxonomy (cattax) that the creative states no category of.",
    )
    CATEGORY_BLOCKED = (
        "category_blocked",
        0,
        "bcat blocks a category of the creative, or acat does not allow its categories.",
    )
    ATTRIBUTE_BLOCKED = "attribute_blocked", 0, "battr blocks an attribute of the creative, or btype its type."
    CREATIVE_INSECURE = "creative_insecure", 0, "The impression is secure and the creative is not."
    MIME_UNSUPPORTED = "mime_unsupported", 0, "The impression does not accept the creative's MIME type."
    API_UNSUPPORTED = "api_unsupported", 0, "The creative needs an API framework the impression lacks."
    PROTOCOL_UNSUPPORTED = (
        "protocol_unsupported",
        0,
        "The impression supports none of the creative's protocols.",
    )
    DURATION = "duration", 0, "The creative is too short or too long."
    BITRATE = "bitrate", 0, "The creative's bit rate is too low or too high for the player."
    DELIVERY_UNSUPPORTED = "delivery_unsupported", 0, "The player takes no media delivered like the creative's."
    NATIVE_ASSETS = "native_assets", 0, "The creative has nothing that fits for an asset that the native slot requires."
    CREATIVE_LANGUAGE = "creative_language", 0, "The impression does not accept the creative's language."
    # Caps, pacing, price, money
    FREQUENCY_CAP = (
        "frequency_cap",
        9,
        "The user has seen the line item, campaign or advertiser often enough.",
    )
    FREQUENCY_UNKNOWN = (
        "frequency_unknown",
        8,
        "The line item has caps, and what the user has seen cannot be told.",
    )
    THROTTLED = "throttled", 0, "Pacing keeps the line item out of this auction."
    RANKED_OUT = "ranked_out", 0, "Other line items promised more; only the best few are scored."
    BELOW_FLOOR = "below_floor", 0, "The price would be below the floor."
    WORTHLESS = "worthless", 0, "The predicted value is too small to bid."
    BUDGET = "budget", 0, "The budget has no room for the bid's cost."
    # Our own answer
    SELF_CHECK = "self_check", 1, "Our answer would have broken a rule, so it was dropped."
    # Nothing to choose from
    NO_CANDIDATE = "no_candidate", 0, "No line item passed the funnel."


#: Every reason by its metric label.
BY_LABEL: dict[str, Exclusion] = {each.value: each for each in Exclusion}
