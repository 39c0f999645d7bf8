"""Names in one form: domains, languages, systems, and the lists that exchanges repeat request after request."""

import re
from collections.abc import Callable
from functools import lru_cache

from dsp.kernel.remember import Remembered
from dsp.openrtb.request import Text

NONE: frozenset[str] = frozenset()
# Bounds on the lists that are kept, since strangers decide what is sent.
_LISTS_MAX = 2_048
_LIST_CHARS_MAX = 8_192
_DOMAIN_CHARS_MAX = 253
#: Domains whose parents are remembered.
_DOMAINS_MAX = 8_192
#: Where apps are installed from, by host.
STORES = frozenset({"play.google.com", "apps.apple.com", "itunes.apple.com"})
#: Codes of before 1989, which Java and so Android still give for these languages.
_LANGUAGES_THEN = {"iw": "he", "in": "id", "ji": "yi"}
#: Some exchanges say it behind the name: "Windows 8.1".
_VERSION = re.compile(r"\s+v?[0-9][0-9a-z._]*$")
_OS_NAMES = {
    "iphone": "ios",
    "iphone os": "ios",
    "ipad": "ios",
    "ipados": "ios",
    "mac os x": "macos",
    "mac os": "macos",
    "macosx": "macos",
    "os x": "macos",
    "osx": "macos",
    "mac": "macos",
    "macintosh": "macos",
    "win": "windows",
    "windows nt": "windows",
    "win32": "windows",
    "windows os": "windows",
    "windows xp": "windows",
    "windows vista": "windows",
    "android os": "android",
    "chrome os": "chromeos",
    "chromium os": "chromeos",
    "cros": "chromeos",
    "web os": "webos",
    "webos tv": "webos",
    "roku os": "roku",
    "ubuntu": "linux",
    "debian": "linux",
    "fedora": "linux",
    "unknown": "",
    "other": "",
}
_BROWSER_NAMES = {
    "google chrome": "chrome",
    "chrome mobile": "chrome",
    "chrome mobile ios": "chrome",
    "chrome mobile webview": "chrome",
    "chromium": "chrome",
    "headlesschrome": "chrome",
    "mobile safari": "safari",
    "mobile safari ui/wkwebview": "safari",
    "firefox mobile": "firefox",
    "firefox ios": "firefox",
    "microsoft edge": "edge",
    "edge mobile": "edge",
    "opera mobile": "opera",
    "opera mini": "opera",
    "opera touch": "opera",
    "ie mobile": "ie",
    "internet explorer": "ie",
    "android": "android browser",
}


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


def domain_and_parents(address: str) -> frozenset[str]:
    """Return a host as `domain` does and every domain above it; none for "" or what is too long for one (RFC 1035)."""
    return _and_parents(address) if address and len(address) <= _DOMAIN_CHARS_MAX else NONE


@lru_cache(maxsize=_DOMAINS_MAX)
def _and_parents(address: str) -> frozenset[str]:
    labels = domain(address).split(".")
    return frozenset([".".join(labels[first:]) for first in range(len(labels))])


def store_id(address: str) -> str:
    """Return an app's id in its store, read out of its address there; "" for an address without one."""
    path, _, query = address.strip().partition("#")[0].partition("?")
    for part in query.split("&"):
        if part.startswith("id="):
            return part[3:]
    last = path.rstrip("/").rpartition("/")[2]
    return last[2:] if last.startswith("id") and last[2:].isdigit() else ""


def advertised_app(landing_url: str) -> str:
    """Return the store id of the app that an ad leads to, "" for an ad that leads elsewhere than to a store."""
    return store_id(landing_url) if domain(landing_url) in STORES else ""


def language(code: str) -> str:
    """Return the ISO 639-1 part of a language tag."""
    primary = code.strip().lower().replace("_", "-").partition("-")[0]
    return _LANGUAGES_THEN.get(primary, primary)


def os_name(name: str) -> str:
    """Return an operating system in lower case and without its version, "" where it is not known."""
    name = _VERSION.sub("", name.strip().lower())
    return _OS_NAMES.get(name, name)


def browser_name(name: str) -> str:
    """Return a browser's family in lower case."""
    name = name.strip().lower()
    return _BROWSER_NAMES.get(name, name)


def _folding(fold: Callable[[str], str]) -> Callable[[tuple[Text, ...]], frozenset[str]]:
    """Return what gives each value of a list in the form that `fold` makes, and remembers the lists."""

    def folded(values: tuple[Text, ...]) -> frozenset[str]:
        return frozenset([fold(str(value)) for value in values])

    known = Remembered(folded, entries_max=_LISTS_MAX, chars_max=_LIST_CHARS_MAX)
    return lambda values: known[values] if values else NONE


#: Category codes in upper case, values as lower-case text, and domains as `domain` gives them.
codes, lower, domains = _folding(str.upper), _folding(str.lower), _folding(domain)
