"""Write IAB TCF v2.2 consent strings (core segment, range-encoded vendors) for simulated European users."""

from base64 import urlsafe_b64encode

_DECISECONDS = 17_500_000_000  # a fixed day in June 2025, so that traffic stays the same byte for byte
_PURPOSES = 24


class _Bits:
    def __init__(self) -> None:
        self._text: list[str] = []

    def add(self, value: int, width: int) -> None:
        self._text.append(format(value, f"0{width}b"))

    def encoded(self) -> str:
        text = "".join(self._text)
        text += "0" * (-len(text) % 8)
        data = int(text, 2).to_bytes(len(text) // 8, "big")
        return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def consent_string(purposes: frozenset[int], vendor_max: int, language: str = "EN") -> str:
    """Return a TCF string that consents to these purposes for the vendors 1 to `vendor_max` (0: for none)."""
    bits = _Bits()
    bits.add(2, 6)  # version
    bits.add(_DECISECONDS, 36)
    bits.add(_DECISECONDS, 36)
    bits.add(300, 12)  # consent management platform
    bits.add(1, 12)
    bits.add(1, 6)  # screen
    for letter in language:
        bits.add(ord(letter) - ord("A"), 6)
    bits.add(145, 12)  # vendor list version
    bits.add(4, 6)  # policy version
    bits.add(1, 1)  # service specific
    bits.add(0, 1)
    bits.add(0, 12)  # special features
    for purpose in range(1, _PURPOSES + 1):
        bits.add(int(purpose in purposes), 1)
    bits.add(0, _PURPOSES)  # legitimate interests
    bits.add(0, 1)
    for letter in "DE":  # the publisher's country
        bits.add(ord(letter) - ord("A"), 6)
    _vendors(bits, vendor_max)
    _vendors(bits, 0)  # legitimate interests
    bits.add(0, 12)  # publisher restrictions
    return bits.encoded()


def _vendors(bits: _Bits, vendor_max: int) -> None:
    bits.add(vendor_max, 16)
    if vendor_max == 0:
        bits.add(0, 1)  # a bit field of no bits
        return
    bits.add(1, 1)
    bits.add(1, 12)  # one entry: the range 1 to vendor_max
    bits.add(1, 1)
    bits.add(1, 16)
    bits.add(vendor_max, 16)
