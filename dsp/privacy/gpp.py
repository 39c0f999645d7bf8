"""What US privacy and Global Privacy Platform strings forbid, and the sections a GPP string holds."""

from functools import lru_cache
from typing import NamedTuple

from dsp.privacy.bits import CHARS_MAX, Bits, BitsError

TCF_EU = 2
US_PRIVACY = 6
US_NATIONAL = 7
US_STATES = range(8, 28)

_HEADER_TYPE = 3
_SECTIONS_MAX = 64
_OPTED_OUT = 1
_GPC_SUBSECTION = 1


class _Layout(NamedTuple):
    """Where a US section keeps what forbids the use of personal data: fields of two bits each."""

    opt_outs: tuple[int, ...]  # of sale, of sharing, of targeted advertising
    children: tuple[int, ...]  # whether the user is a known child, by age or by activity; 0 where not
    mode: int  # service-provider mode, in which nobody down the chain may use data for purposes of their own
    provider: int = 1  # the mode's value in that case
    global_control: bool = True  # whether subsections are of Global Privacy Control


#: The newest states begin with their modes, and what follows the core is of sensitive data.
_MODE_FIRST = _Layout((16, 18), (20,), 8, provider=2, global_control=False)
_LAYOUTS = {
    US_NATIONAL: _Layout((18, 20, 22), (56, 58, 60), 68),
    8: _Layout((12, 14), (34, 36), 44),  # California
    9: _Layout((12, 14), (32,), 38),  # Virginia
    10: _Layout((12, 14), (30,), 36),  # Colorado
    11: _Layout((14, 16), (34,), 40),  # Utah
    12: _Layout((12, 14), (32, 34, 36), 42),  # Connecticut
    13: _Layout((12, 14), (32, 34, 36), 44),  # Florida
    14: _Layout((12, 14), (32, 34, 36), 44),  # Montana
    15: _Layout((12, 14), (38, 40, 42), 50),  # Oregon
    16: _Layout((12, 14), (32,), 40),  # Texas
    17: _Layout((12, 14), (34, 36, 38, 40, 42), 50),  # Delaware
    18: _Layout((14, 16), (34,), 40),  # Iowa
    19: _Layout((12, 14), (32,), 40),  # Nebraska
    20: _Layout((12, 14), (32, 34, 36), 44),  # New Hampshire
    21: _Layout((12, 14), (36, 38, 40, 42, 44), 52),  # New Jersey
    22: _Layout((12, 14), (32,), 40),  # Tennessee
    23: _Layout((12, 14), (32,), 40),  # Minnesota
    24: _MODE_FIRST._replace(children=(), global_control=True),  # Maryland
    25: _MODE_FIRST,  # Indiana
    26: _MODE_FIRST,  # Kentucky
    27: _MODE_FIRST,  # Rhode Island
}
#: The national section had fewer fields on sensitive data and children once, and is told by its length.
_NATIONAL_BITS = 70
_NATIONAL_BEFORE = _Layout((18, 20, 22), (48, 50), 58)


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
    """Return whether a US section leaves a user's data unused: opted out, a known child, or ours only as a service.

    One that cannot be read counts as an opt-out.
    """
    if section == US_PRIVACY:
        return us_privacy_opted_out(body)
    core, *subsections = body.split(".")
    try:
        bits = Bits(core)
        layout = _layout(section, bits)
        if any(bits.at(offset, 2) == _OPTED_OUT for offset in layout.opt_outs):
            return True
        if any(bits.at(offset, 2) for offset in layout.children) or bits.at(layout.mode, 2) == layout.provider:
            return True
        return layout.global_control and any(_global_control(Bits(subsection)) for subsection in subsections)
    except BitsError:
        return True


def _layout(section: int, bits: Bits) -> _Layout:
    if section == US_NATIONAL and bits.length < _NATIONAL_BITS:
        return _NATIONAL_BEFORE
    layout = _LAYOUTS.get(section)
    # The specifications of the newest states have a header before the core, which nobody writes as yet.
    if layout is None or (layout.provider == _MODE_FIRST.provider and bits.at(0, 6) == section):
        raise BitsError("not a section of the United States, or one with a header")
    return layout


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
