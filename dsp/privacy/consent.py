"""What a TCF 2 consent string lets one vendor do (IAB Europe, "Consent string and vendor list formats v2").

Read here rather than with a library because it must be right for strings cut short, where missing bits are no
consent, and cheap for strings made to be slow.
"""

from functools import lru_cache
from typing import NamedTuple

from dsp.privacy.bits import CHARS_MAX, Bits, BitsError

_VERSION = 2
# Offsets in the core segment, whose head has a fixed layout.
_PURPOSES_CONSENT = 152
_PURPOSES_INTEREST = 176
_VENDORS = 213
_PURPOSES = 24
#: Storage needs consent, and since TCF 2.2 so do profiles and personalisation.
_CONSENT_ONLY = frozenset({1, 3, 4, 5, 6})
_NOT_ALLOWED, _REQUIRE_CONSENT, _REQUIRE_INTEREST = 0, 1, 2


class Basis(NamedTuple):
    """The purposes a vendor has a legal basis for, and those the publisher forbids it outright."""

    purposes: frozenset[int]
    forbidden: frozenset[int]


NO_BASIS = Basis(frozenset(), frozenset())


def basis(text: str, vendor_id: int) -> Basis:
    """Return the basis a consent string gives a vendor; none for a string that cannot be read to its end."""
    return _cached(text, vendor_id) if len(text) <= CHARS_MAX else NO_BASIS


@lru_cache(maxsize=8_192)
def _cached(text: str, vendor_id: int) -> Basis:
    try:
        bits = Bits(text.partition(".")[0])
        return _basis(bits, vendor_id) if bits.at(0, 6) == _VERSION and vendor_id > 0 else NO_BASIS
    except BitsError:
        return NO_BASIS


def _basis(bits: Bits, vendor_id: int) -> Basis:
    bits.position = _VENDORS
    consents = _vendor_listed(bits, vendor_id)
    interests = _vendor_listed(bits, vendor_id)
    restrictions = _restrictions(bits, vendor_id)
    purposes = set()
    for purpose in range(1, _PURPOSES + 1):
        by_consent = consents and bits.at(_PURPOSES_CONSENT + purpose - 1, 1) == 1
        by_interest = interests and bits.at(_PURPOSES_INTEREST + purpose - 1, 1) == 1 and purpose not in _CONSENT_ONLY
        kinds = restrictions.get(purpose, frozenset())
        allowed = (by_consent and _REQUIRE_INTEREST not in kinds) or (by_interest and _REQUIRE_CONSENT not in kinds)
        if allowed and _NOT_ALLOWED not in kinds:
            purposes.add(purpose)
    forbidden = frozenset(purpose for purpose, kinds in restrictions.items() if _NOT_ALLOWED in kinds)
    return Basis(frozenset(purposes), forbidden)


def _vendor_listed(bits: Bits, vendor_id: int) -> bool:
    """Read one vendor section, a bit field or ranges, to its end."""
    vendor_max = bits.take(16)
    if bits.take(1):
        return _in_ranges(bits, vendor_id)
    start = bits.position
    bits.position += vendor_max  # what follows tells whether the whole field is there
    return vendor_id <= vendor_max and bits.at(start + vendor_id - 1, 1) == 1


def _in_ranges(bits: Bits, vendor_id: int) -> bool:
    found = False
    for _ in range(bits.take(12)):
        is_range = bits.take(1)
        first = bits.take(16)
        last = bits.take(16) if is_range else first
        found = found or first <= vendor_id <= last
    return found


def _restrictions(bits: Bits, vendor_id: int) -> dict[int, frozenset[int]]:
    """Return the kinds of publisher restriction on the vendor, by purpose."""
    found: dict[int, frozenset[int]] = {}
    for _ in range(bits.take(12)):
        purpose, kind = bits.take(6), bits.take(2)
        if _in_ranges(bits, vendor_id):
            found[purpose] = found.get(purpose, frozenset()) | {kind}
    return found
