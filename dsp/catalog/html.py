"""Whether HTML ends before what is put behind it, as browsers read it (HTML standard, 13.2.5)."""

import re

_BEGIN = re.compile(r"<(?:(?P<comment>!--)|[!?]|(?P<closing>/?)(?P<name>[a-z][^\s/>]*)|/)", re.I)
_COMMENT_END = re.compile(r"--!?>")
#: The attributes of a tag; the end of it may stand between quotes.
_TAG_END = re.compile(r"""(?:[^=>]|=\s*+(?:"[^"]*"|'[^']*'|(?!["'])))*+>""")
#: What browsers hold to be text, or do not show, until the element's end tag.
_CONTAINED = frozenset({"script", "style", "textarea", "title", "iframe", "noscript", "xmp", "template", "select"})
_FOREIGN = frozenset({"svg", "math"})


def unclosed(html: str) -> str:
    """Return the comment, tag or element that swallows what follows the HTML, "" where none does."""
    at, foreign = 0, False
    while (begin := _BEGIN.search(html, at)) is not None:
        name = (begin["name"] or "").lower()
        comment = begin["comment"] is not None
        end = _COMMENT_END.search(html, begin.start() + 2) if comment else _TAG_END.match(html, begin.end())
        if end is None:
            return begin[0]
        empty = html[end.end() - 2] == "/"  # which means something in SVG and MathML alone
        if name in _FOREIGN:
            foreign = not (begin["closing"] or empty)
        elif name in _CONTAINED and not (begin["closing"] or (foreign and empty)):
            end = re.compile(rf"</{name}(?=[\s/>])", re.I).search(html, end.end())
            if end is None:
                return begin[0]
        at = end.end()
    return ""
