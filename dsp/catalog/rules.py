"""Targeting rules: for each dimension of an opportunity, what is included and what is excluded."""

from enum import StrEnum

import msgspec


class Dimension(StrEnum):
    """What a rule can look at; values are normalised as dsp.openrtb.opportunity writes them."""

    EXCHANGE = "exchange"  # profile name
    COUNTRY = "country"  # ISO-3166-1 alpha-3, upper case
    REGION = "region"  # "USA-CA": country, hyphen, region as the exchange sends it, upper case
    CITY = "city"  # "USA-los angeles": country, hyphen, lower-case city
    POSTCODE = "postcode"  # "USA-90210"
    DEVICE = "device"  # DeviceKind value
    OS = "os"  # lower case: "ios", "android", "windows", ...
    BROWSER = "browser"  # lower case family
    FORMAT = "format"  # MediaFormat value
    SIZE = "size"  # "300x250"
    INVENTORY = "inventory"  # "site" | "app" | "dooh"
    DOMAIN = "domain"  # registrable domain or host, lower case, without "www."; covers the hosts below it
    BUNDLE = "bundle"  # app bundle
    PLACEMENT = "placement"  # imp.tagid
    PUBLISHER = "publisher"  # publisher id
    CATEGORY = "category"  # IAB content category; covers its subcategories
    SEGMENT = "segment"  # audience segment id
    LANGUAGE = "language"  # ISO-639-1, lower case
    DEAL = "deal"  # deal id


class Clause(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """Values of one dimension. Empty `include` admits everything; `exclude` wins over `include`.

    An opportunity without a value for the dimension fails a non-empty `include` and passes `exclude`. Formats, sizes
    and deals are offers to choose from: an excluded one is not taken, the others stay. A line item that includes deals
    bids through those only, any other in the open auction only.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class Targeting(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """Every clause must hold. `audience` is an AND of ORs: one segment of each group must be present."""

    clauses: dict[Dimension, Clause] = {}
    audience: tuple[tuple[str, ...], ...] = ()
