"""Where a click leads: the creative's landing page and nothing else, with the conversion token added."""

from urllib.parse import quote, urlsplit

URL_CHARS_MAX = 4_096


def redirect_url(landing_url: str, parameter: str, token: str) -> str | None:
    """Return the landing URL with `parameter=token` in its query; None when it is not an http(s) URL with a host."""
    if len(landing_url) > URL_CHARS_MAX or not landing_url.isprintable() or " " in landing_url:
        return None
    try:
        parts = urlsplit(landing_url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    if not parameter:
        return landing_url
    query = f"{parts.query}&{parameter}={quote(token)}" if parts.query else f"{parameter}={quote(token)}"
    return parts._replace(query=query).geturl()
