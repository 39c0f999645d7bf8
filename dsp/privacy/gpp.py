"""Opt-outs in US privacy and Global Privacy Platform strings, and the sections a GPP string holds."""

from functools import lru_cache

from dsp.privacy.bits import CHARS_MAX, Bits, BitsError

TCF_EU = 2
US_PRIVACY = 6
US_NATIONAL = 7
US_STATES = range(8, 28)

_HEADER_TYPE = 3
_SECTIONS_MAX = 64
_OPTED_OUT = 1
_GPC_SUBSECTION = 1
#: Where each section keeps the opt-outs of sale, sharing and targeted advertising, two bits each.
_OPT_OUT_OFFSETS = {
    US_NATIONAL: (18, 20, 22),
    11: (14, 16),  # Utah
    18: (14, 16),  # Iowa
    24: (28, 30),  # Maryland
    25: (28, 30),  # Indiana
    26: (28, 30),  # Kentucky
    27: (22, 24),  # Rhode Island
}
_OPT_OUT_OFFSETS_OTHER_STATES = (12, 14)


def sections(text: str) -> dict[int, str] | None:
    """Return the sections of a GPP string by their number, None if it cannot be read."""
    return _sections(text) if len(text) <= CHARS_MAX else None


@lru_cache(maxsize=4_096)
def _sections(text: str) -> dict[int, str] | None:
    header, *bodies = text.split("~")
    try:
        numbers = _header(Bits(header))
    except BitsError:
        return None
    return dict(zip(numbers, bodies, strict=True)) if len(numbers) == len(bodies) else None


@lru_cache(maxsize=4_096)
def opted_out(section: int, body: str) -> bool:
    """Return whether a US section opts the user out; one that cannot be read counts as an opt-out."""
    if section == US_PRIVACY:
        return us_privacy_opted_out(body)
    core, *subsections = body.split(".")
    try:
        bits = Bits(core)
        offsets = _OPT_OUT_OFFSETS.get(section, _OPT_OUT_OFFSETS_OTHER_STATES)
        if any(bits.at(offset, 2) == _OPTED_OUT for offset in offsets):
            return True
        return any(_global_control(Bits(subsection)) for subsection in subsections)
    except BitsError:
        return True


def us_privacy_opted_out(text: str) -> bool:
    """Return whether a US privacy string ("1YNN") opts out of sale; one that is not of that form counts as opt-out."""
    if len(text) != 4 or text[0] != "1":
        return bool(text)
    return text[2] not in "nN-"


def _header(bits: Bits) -> list[int]:
    if bits.take(6) != _HEADER_TYPE:
        raise BitsError("not a GPP header")
    bits.take(6)  # version
    numbers: list[int] = []
    last = 0
    for _ in range(min(bits.take(12), _SECTIONS_MAX)):
        is_range = bits.take(1)
        first = last + bits.take_fibonacci()
        last = first + bits.take_fibonacci() if is_range else first
        if last - first > _SECTIONS_MAX:
            raise BitsError("too many sections")
        numbers += range(first, last + 1)
    return numbers


def _global_control(bits: Bits) -> bool:
    """Return whether a subsection carries the browser's Global Privacy Control."""
    return bits.at(0, 2) == _GPC_SUBSECTION and bits.at(2, 1) == 1
