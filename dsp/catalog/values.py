"""The shapes of targeting values: how each dimension's are written so that they equal an opportunity's."""

import re
from collections.abc import Callable, Collection

from dsp.catalog.entities import MediaFormat
from dsp.catalog.rules import Dimension
from dsp.openrtb.categories import category_and_parents
from dsp.openrtb.geo import COUNTRIES
from dsp.openrtb.names import browser_name, domain_and_parents, os_name
from dsp.openrtb.opportunity import DeviceKind

TEXT_CHARS_MAX = 200
#: Invisible, but words of Persian and many emoji are written with them.
_JOINERS = "\u200c\u200d"
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})+")
_REGION = re.compile(r"([A-Z]{3})-[A-Z0-9]{1,10}")
_POSTCODE = re.compile(r"([A-Z]{3})-[A-Z0-9 -]{1,12}")
_SIZE = re.compile(r"[1-9]\d{0,3}x[1-9]\d{0,3}")
#: Content taxonomy 1.0 (IAB2-3), 2.x (a number) and 3.x (a number, or six characters with digits among them).
_CATEGORY = re.compile(r"IAB\d{1,2}(-\d{1,3})?|\d{1,4}|(?=[A-Z]*\d)[A-Z0-9]{6}")
#: ISO 639-1.
_LANGUAGE_CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka
kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng
nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su
sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
_LANGUAGES = frozenset(_LANGUAGE_CODES.split())
_PROFILE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def text(value: str) -> str:
    """Return a line of text without blanks around it; refuse an empty one, one too long and what cannot be seen."""
    value = value.replace("\xa0", " ").strip()
    if not value:
        raise ValueError("must not be empty")
    if len(value) > TEXT_CHARS_MAX:
        raise ValueError(f"must have at most {TEXT_CHARS_MAX} characters")
    hidden = next((one for one in value if not one.isprintable() and one not in _JOINERS), None)
    if hidden is not None:
        raise ValueError(f"must not contain the invisible character U+{ord(hidden):04X}")
    return value


def domain(value: str) -> str:
    """Return a host name in lower case without a leading `www.`."""
    host = value.strip().lower().removeprefix("www.")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError("must be a domain such as example.com, without scheme or path")
    return host


def category(value: str) -> str:
    """Return an IAB category in upper case."""
    return _matching(_CATEGORY, value.strip().upper(), "an IAB category such as IAB2 or IAB2-3")


def language(value: str) -> str:
    """Return an ISO 639-1 code in lower case."""
    code = value.strip().lower()
    if code not in _LANGUAGES:
        raise ValueError("must be an ISO 639-1 language such as en")
    return code


def exchange(value: str) -> str:
    """Return the name of an exchange profile."""
    return _matching(_PROFILE, value.strip().lower(), "the name of an exchange profile")


def identifier(value: str) -> str:
    """Return an id in lower case, as requests' are read."""
    return text(value).lower()


def covering(dimension: Dimension, value: str) -> Collection[str]:
    """Return the values that cover a value in normal form: itself, of a host those above it, of a part its category."""
    if dimension is Dimension.DOMAIN:
        return domain_and_parents(value)
    return category_and_parents(value) if dimension is Dimension.CATEGORY else (value,)


def _matching(pattern: re.Pattern[str], value: str, wanted: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"must be {wanted}")
    return value


def _country(value: str) -> str:
    code = value.strip().upper()
    if code not in COUNTRIES:
        raise ValueError("must be an ISO 3166-1 alpha-3 country such as USA")
    return code


def _city(value: str) -> str:
    country, hyphen, city = text(value).partition("-")
    if not hyphen or country.upper() not in COUNTRIES or not city.strip():
        raise ValueError("must be a country and a city such as USA-los angeles")
    return f"{country.upper()}-{city.strip().lower()}"


def _within(pattern: re.Pattern[str], value: str, wanted: str) -> str:
    """Return a place that the pattern describes, whose first group is the country that it is in."""
    place = value.strip().upper()
    found = pattern.fullmatch(place)
    if found is None or found[1] not in COUNTRIES:
        raise ValueError(f"must be {wanted}")
    return place


def _os(value: str) -> str:
    name = os_name(text(value))
    if not name:
        raise ValueError("must be an operating system such as android")
    return name


def _one_of(*allowed: str) -> Callable[[str], str]:
    def shape(value: str) -> str:
        lower = value.strip().lower()
        if lower not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return lower

    return shape


#: By dimension, what returns a value as opportunities write it; a ValueError's message is a sentence for people.
SHAPES: dict[Dimension, Callable[[str], str]] = {
    Dimension.EXCHANGE: exchange,
    Dimension.COUNTRY: _country,
    Dimension.REGION: lambda value: _within(_REGION, value, "a country and a region such as USA-CA"),
    Dimension.CITY: _city,
    Dimension.POSTCODE: lambda value: _within(_POSTCODE, value, "a country and a postcode such as USA-90210"),
    Dimension.DEVICE: _one_of(*DeviceKind),
    Dimension.OS: _os,
    Dimension.BROWSER: lambda value: browser_name(text(value)),
    Dimension.FORMAT: _one_of(*MediaFormat),
    Dimension.SIZE: lambda value: _matching(_SIZE, value.strip().lower(), "a size such as 300x250"),
    Dimension.INVENTORY: _one_of("site", "app", "dooh"),
    Dimension.DOMAIN: domain,
    Dimension.BUNDLE: identifier,
    Dimension.PLACEMENT: identifier,
    Dimension.PUBLISHER: identifier,
    Dimension.CATEGORY: category,
    Dimension.SEGMENT: identifier,
    Dimension.LANGUAGE: language,
    Dimension.DEAL: text,
}
