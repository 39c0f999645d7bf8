"""Writes TCF 2 consent strings, for tests to read."""

from collections.abc import Iterable

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def tcf(
    *,
    purposes: Iterable[int],
    vendors: Iterable[int],
    interests: Iterable[int] = (),
    interest_vendors: Iterable[int] = (),
    restrictions: Iterable[tuple[int, int, int]] = (),
    ranges: bool = False,
) -> str:
    """Return the core segment; `restrictions` are (purpose, kind, vendor)."""
    bits = f"{2:06b}{0:036b}{0:036b}{1:012b}{1:012b}{1:06b}{0:012b}{1:012b}{4:06b}00{0:012b}"
    bits += _field(purposes, 24) + _field(interests, 24) + f"0{0:012b}"
    bits += _vendors(sorted(vendors), ranges) + _vendors(sorted(interest_vendors), ranges)
    rules = list(restrictions)
    bits += f"{len(rules):012b}"
    for purpose, kind, vendor in rules:
        bits += f"{purpose:06b}{kind:02b}{1:012b}0{vendor:016b}"
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[start : start + 6], 2)] for start in range(0, len(bits), 6))


def _field(numbers: Iterable[int], width: int) -> str:
    wanted = set(numbers)
    return "".join("1" if number in wanted else "0" for number in range(1, width + 1))


def _vendors(numbers: list[int], ranges: bool) -> str:
    last = max(numbers, default=0)
    if not ranges:
        return f"{last:016b}0{_field(numbers, last)}"
    return f"{last:016b}1{len(numbers):012b}" + "".join(f"1{number:016b}{number:016b}" for number in numbers)
