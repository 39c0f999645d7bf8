"""Where a click leads: the creative's landing page and nothing else, with the conversion token added."""

from urllib.parse import quote, urlsplit

URL_CHARS_MAX = 4_096

#: What a URL may hold as it is (RFC 3986); everything else is percent-encoded.
_KEPT = "%:/?#[]@!$&'()*+,;=-._~"


def redirect_url(landing_url: str, parameter: str, token: str) -> str | None:
    """Return the landing URL, in ASCII, with `parameter=token` in its query; None unless it is http(s) with a host.

    One that was copied out of a browser after a click holds an older token, which goes: a page reads the first.
    """
    if len(landing_url) > URL_CHARS_MAX or not landing_url.isprintable() or " " in landing_url:
        return None
    try:
        parts = urlsplit(landing_url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    if parameter:
        others = [part for part in parts.query.split("&") if part and part.partition("=")[0] != parameter]
        landing_url = parts._replace(query="&".join([*others, f"{parameter}={quote(token)}"])).geturl()
    return landing_url if landing_url.isascii() else quote(landing_url, safe=_KEPT)
