"""Where a click leads: the creative's landing page and nothing else, with the conversion token added."""

from urllib.parse import quote, urlsplit

URL_CHARS_MAX = 4_096

#: What a URL may hold as it is (RFC 3986); everything else is percent-encoded.
_KEPT = "%:/?#[]@!$&'()*+,;=-._~"


def redirect_url(landing_url: str, parameter: str, token: str) -> str | None:
    """Return the landing URL, in ASCII, with `parameter=token` in its query; None unless it is http(s) with a host."""
    if len(landing_url) > URL_CHARS_MAX or not landing_url.isprintable() or " " in landing_url:
        return None
    try:
        parts = urlsplit(landing_url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    if parameter:
        query = f"{parts.query}&{parameter}={quote(token)}" if parts.query else f"{parameter}={quote(token)}"
        landing_url = parts._replace(query=query).geturl()
    return landing_url if landing_url.isascii() else quote(landing_url, safe=_KEPT)
