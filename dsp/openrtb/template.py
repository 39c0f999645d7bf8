"""Text that differs between bids in a few places only, such as a creative's markup: written once, filled in often."""

import re
import secrets
from collections.abc import Sequence

#: Browsers hold loopback addresses to be secure (W3C Mixed Content, 4), which lets one machine try everything out.
_LOOPBACK = r"(?!//(?:127\.0\.0\.1|localhost|\[::1\])[:/])"
#: http: as the value of an attribute, in url() or in a JSON or script string loads something insecure. Browsers write
#: the quotes of a style in an attribute as references, in markup that is copied out of them.
_INSECURE = re.compile(r"""(?:[="'`]|url\(|&(?:quot|apos|#34|#39);)\s*http:""" + _LOOPBACK, re.IGNORECASE)
#: So does a VAST node whose text it is; in HTML that is text to read.
_INSECURE_NODE = re.compile(r"(?:>|<!\[CDATA\[)\s*http:" + _LOOPBACK, re.IGNORECASE)
#: What is only followed when a person clicks; a native ad's texts, which are read; and XML namespaces, which nothing
#: loads at all. A tag ends before the next, and so does a node's text: else each tag of many without an end would be
#: looked for until the markup's.
_NOT_LOADED = re.compile(
    r"""<a\s[^<>]*>
    |<(ClickThrough|IconClickThrough|CompanionClickThrough)\b[^<>]*>[^<]*(?:<!\[CDATA\[[^<]*)?</\1>
    |"link":\{"url":"[^"]*"|"(?:title":\{"text|data":\{"value)":"(?:[^"\\]|\\.)*"
    |xmlns(?::\w+)?\s*=\s*(?:"[^"]*"|'[^']*')|http://www\.w3\.org/[\w./#-]*""",
    re.IGNORECASE | re.VERBOSE,
)
#: What shows banner markup to be of a type (OpenRTB list 5.2); what shows none is an XHTML banner.
_BANNER_TYPES = {3: "<script", 4: "<iframe"}
_XHTML_BANNER = 2
#: Nobody outside this process knows it, so no creative and no request can hold it.
_MARK = secrets.token_hex(16)
_OPEN = re.compile(_MARK + r"([0-9]{2})")


def mark(number: int) -> str:
    """Return what stands for value `number` (0 to 99) in the text that a template is made of."""
    return f"{_MARK}{number:02}"


def insecure(text: str) -> bool:
    """Return whether showing the markup would load something over http."""
    lower = text.lower()
    if "http:" not in lower:
        return False
    loaded = _NOT_LOADED.sub("", text)
    return _INSECURE.search(loaded) is not None or ("<vast" in lower and _INSECURE_NODE.search(loaded) is not None)


def banner_types(markup: str) -> frozenset[int]:
    """Return the banner ad types that the markup is of."""
    text = markup.lower()
    return frozenset([number for number, tag in _BANNER_TYPES.items() if tag in text] or [_XHTML_BANNER])


class Template:
    """A text with open places."""

    __slots__ = ("_open", "_pieces", "chars")

    def __init__(self, text: str) -> None:
        self._pieces: list[str] = _OPEN.split(text)
        self._open = [(at, int(self._pieces[at])) for at in range(1, len(self._pieces), 2)]
        self.chars = len(text)

    def fill(self, values: Sequence[str]) -> str:
        """Return the text with values[n] where mark n stood."""
        pieces = self._pieces.copy()
        for at, number in self._open:
            pieces[at] = values[number]
        return "".join(pieces)
