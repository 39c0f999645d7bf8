"""Names in one form: domains, languages, and the lists of them that exchanges repeat request after request."""

from collections.abc import Callable

from dsp.openrtb.request import Text

NONE: frozenset[str] = frozenset()
_Fold = Callable[[tuple[Text, ...]], frozenset[str]]
_Cache = dict[tuple[Text, ...], frozenset[str]]
# Bounds on what is kept, since strangers decide what is sent.
_LISTS_MAX = 2_048
_LIST_CHARS_MAX = 8_192
_codes: _Cache = {}
_domains: _Cache = {}


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


def codes(values: list[Text]) -> frozenset[str]:
    """Return category codes in upper case."""
    return _folded(values, _fold_codes, _codes)


def lower(values: list[Text]) -> frozenset[str]:
    """Return the values as lower-case text."""
    return frozenset([str(code).lower() for code in values]) if values else NONE


def domains(names: list[Text]) -> frozenset[str]:
    """Return domains as `domain` gives them."""
    return _folded(names, _fold_domains, _domains)


def _folded(values: list[Text], fold: _Fold, cache: _Cache) -> frozenset[str]:
    if not values:
        return NONE
    key = tuple(values)
    found = cache.get(key)
    if found is None:
        found = fold(key)
        if sum(map(len, found)) + len(key) <= _LIST_CHARS_MAX:
            if len(cache) >= _LISTS_MAX:
                cache.clear()
            cache[key] = found
    return found


def _fold_codes(values: tuple[Text, ...]) -> frozenset[str]:
    return frozenset([str(code).upper() for code in values])


def _fold_domains(names: tuple[Text, ...]) -> frozenset[str]:
    return frozenset([domain(str(name)) for name in names])
