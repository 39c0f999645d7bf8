"""The substitution macros of notice URLs and markup (4.4): their names, and substitution as an exchange does it."""

import re
from collections.abc import Mapping
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


_MACRO = re.compile(r"\$\{(AUCTION_[A-Z_]*)(?::([A-Za-z0-9]*))?\}")
_NAMES = frozenset(Macro)


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
