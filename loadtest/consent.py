"""Write IAB TCF v2.2 consent strings (core segment, range-encoded vendors) for simulated European users."""

from base64 import urlsafe_b64encode

_DECISECONDS = 17_500_000_000  # a fixed day in June 2025, so that traffic stays the same byte for byte
_PURPOSES = 24


def consent_string(purposes: frozenset[int], vendor_max: int, language: str = "EN") -> str:
    """Return a TCF string that consents to these purposes for the vendors 1 to `vendor_max` (0: for none)."""
    fields = [  # values and how many bits each has
        (2, 6),  # version
        (_DECISECONDS, 36),
        (_DECISECONDS, 36),
        (300, 12),  # consent management platform
        (1, 12),
        (1, 6),  # screen
        *_letters(language),
        (145, 12),  # vendor list version
        (4, 6),  # policy version
        (1, 1),  # service specific
        (0, 1),
        (0, 12),  # special features
        *((int(purpose in purposes), 1) for purpose in range(1, _PURPOSES + 1)),
        (0, _PURPOSES),  # legitimate interests
        (0, 1),
        *_letters("DE"),  # the publisher's country
        *_vendors(vendor_max),
        *_vendors(0),  # legitimate interests
        (0, 12),  # publisher restrictions
    ]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _letters(text: str) -> list[tuple[int, int]]:
    return [(ord(letter) - ord("A"), 6) for letter in text]


def _vendors(vendor_max: int) -> list[tuple[int, int]]:
    """Return one range, from 1 on, or a bit field of no bits."""
    return [(vendor_max, 16), *([(1, 1), (1, 12), (1, 1), (1, 16), (vendor_max, 16)] if vendor_max else [(0, 1)])]
