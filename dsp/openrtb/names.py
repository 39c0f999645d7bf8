"""Names in one form: domains, languages, and the lists of them that exchanges repeat request after request."""

from dsp.kernel.remember import Remembered
from dsp.openrtb.request import Text

NONE: frozenset[str] = frozenset()
# Bounds on the lists that are kept, since strangers decide what is sent.
_LISTS_MAX = 2_048
_LIST_CHARS_MAX = 8_192


def domain(address: str) -> str:
    """Return the host of a domain or URL: lower case, without "www.", port and trailing dot."""
    host = address.strip().lower()
    if "/" in host:
        host = host.partition("//")[2] or host
        host = host.partition("/")[0]
    if "?" in host:
        host = host.partition("?")[0]
    host = host.rpartition("@")[2].partition(":")[0].rstrip(".")
    return host.removeprefix("www.")


def language(code: str) -> str:
    """Return the ISO 639-1 part of a language tag."""
    return code.strip().lower().replace("_", "-").partition("-")[0]


def codes(values: tuple[Text, ...]) -> frozenset[str]:
    """Return category codes in upper case."""
    return _codes[values] if values else NONE


def lower(values: tuple[Text, ...]) -> frozenset[str]:
    """Return the values as lower-case text."""
    return frozenset([str(code).lower() for code in values]) if values else NONE


def domains(names: tuple[Text, ...]) -> frozenset[str]:
    """Return domains as `domain` gives them."""
    return _domains[names] if names else NONE


def _fold_codes(values: tuple[Text, ...]) -> frozenset[str]:
    return frozenset([str(code).upper() for code in values])


def _fold_domains(names: tuple[Text, ...]) -> frozenset[str]:
    return frozenset([domain(str(name)) for name in names])


_codes = Remembered(_fold_codes, entries_max=_LISTS_MAX, chars_max=_LIST_CHARS_MAX)
_domains = Remembered(_fold_domains, entries_max=_LISTS_MAX, chars_max=_LIST_CHARS_MAX)
