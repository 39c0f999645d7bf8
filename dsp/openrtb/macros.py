"""The substitution macros of notice URLs and markup (4.4): their names, and substitution as an exchange does it.

Those of creatives that the bidder replaces itself are named here too.
"""

import re
from collections.abc import Collection, Mapping
from enum import StrEnum


class Macro(StrEnum):
    """What an exchange knows and may tell us."""

    ID = "AUCTION_ID"
    BID_ID = "AUCTION_BID_ID"
    IMP_ID = "AUCTION_IMP_ID"
    SEAT_ID = "AUCTION_SEAT_ID"
    AD_ID = "AUCTION_AD_ID"
    PRICE = "AUCTION_PRICE"
    CURRENCY = "AUCTION_CURRENCY"
    MBR = "AUCTION_MBR"
    LOSS = "AUCTION_LOSS"
    MIN_TO_WIN = "AUCTION_MIN_TO_WIN"
    MULTIPLIER = "AUCTION_MULTIPLIER"
    IMP_TS = "AUCTION_IMP_TS"
    DISCOUNT_PCT = "AUCTION_DISCOUNT_PCT"
    DISCOUNT_CPM = "AUCTION_DISCOUNT_CPM"

    @property
    def text(self) -> str:
        """Return the macro as it stands in a URL or in markup."""
        return self.encoded("")

    def encoded(self, encoding: str) -> str:
        """Return the macro for a value encoded by a scheme that the exchange named; "" is as it is."""
        return "${" + self.value + (f":{encoding}" if encoding else "") + "}"


#: What the bidder replaces in creatives: the click redirect, plain or percent-encoded, and a number against caches.
CLICK_URL = "${CLICK_URL}"
CLICK_URL_ENCODED = "${CLICK_URL_ENC}"
CACHE_BUSTER = "${CACHEBUSTER}"
_MACRO = re.compile(r"\$\{(AUCTION_[A-Z_]*)(?::([A-Za-z0-9]*))?\}")
_NAMES = frozenset(Macro)
#: What looks like a macro, of whatever platform, in an address, which has no such characters of its own.
_ANY = re.compile(r"\$?\{[^{}]{0,64}\}?|%%\w{0,64}%%|\[[^\[\]]{0,64}\]?")
#: As players replace them (VAST 4, 6).
_PLAYERS = re.compile(r"\[[A-Z]+\]")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace every ${AUCTION_...} by its value, an absent value by nothing (4.4).

    `${NAME:X}`, a value encoded by scheme X, takes the value of "NAME:X". Nothing is escaped, as nothing is by
    exchanges; macros of other families stay as they are.
    """

    def value(match: re.Match[str]) -> str:
        name, encoding = match.groups()
        return values.get(f"{name}:{encoding}" if encoding else name, "")

    return _MACRO.sub(value, text)


def unknown(text: str) -> list[str]:
    """Return the names of the ${AUCTION_...} macros in a text that no specification knows."""
    if "${AUCTION_" not in text:
        return []
    return [match.group(1) for match in _MACRO.finditer(text) if match.group(1) not in _NAMES]


def filled(url: str, own: Collection[str], player: bool) -> str:
    """Return an address as it will be once its macros are replaced, with a 0 for each.

    Those are OpenRTB's, those of `own`, and where a player loads it VAST's.

    Raises:
        ValueError: it has a macro that nobody replaces; the message is a sentence for people.
    """

    def value(match: re.Match[str]) -> str:
        text = match[0]
        known = _MACRO.fullmatch(text)
        if text in own or (known and known[1] in _NAMES) or (player and _PLAYERS.fullmatch(text)):
            return "0"
        raise ValueError(f"has a macro that nobody replaces, {text}; those that are: {', '.join(own)} and OpenRTB's")

    return _ANY.sub(value, url)
