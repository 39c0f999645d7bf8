"""The ad's markup and the URLs in it: our notices with signed tokens and the exchange's price macros."""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from dsp.catalog.entities import Creative, MediaFormat
from dsp.events.schema import NoticeKind
from dsp.kernel.errors import InputError
from dsp.openrtb import native, vast
from dsp.openrtb.macros import Macro
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile

_MIN_TO_WIN = f"&m={Macro.MIN_TO_WIN.text}"
_LOSS = f"&r={Macro.LOSS.text}{_MIN_TO_WIN}"
#: An ad can be skipped after so long where the slot lets it be and does not say when.
SKIP_AFTER_SECONDS = 5
#: What a creative's markup may hold of ours: the click redirect, plain or percent-encoded, and a number against caches.
CLICK_URL = "${CLICK_URL}"
CLICK_URL_ENCODED = "${CLICK_URL_ENC}"
CACHE_BUSTER = "${CACHEBUSTER}"


class NoticeUrls(NamedTuple):
    """Where each of a bid's notices goes; prices and reasons are the exchange's macros."""

    win: str
    bill: str
    loss: str
    impression: str
    click: str
    #: The same by way of the exchange, where that counts clicks of banners as well.
    banner_click: str


def notice_urls(base: str, tokens: Mapping[NoticeKind, str], profile: Profile) -> NoticeUrls:
    """Return the URLs of the kinds that have a token; the impression's carries the price where it is billed on."""
    price = f"&p={Macro.PRICE.encoded(profile.price_encoding)}"

    def url(kind: NoticeKind, rest: str = "") -> str:
        return f"{base}/{kind.value}?t={tokens[kind]}{rest}" if kind in tokens else ""

    click = url(NoticeKind.CLICK)
    return NoticeUrls(
        win=url(NoticeKind.WIN, price + _MIN_TO_WIN),
        bill=url(NoticeKind.BILL, price + _MIN_TO_WIN),
        loss=url(NoticeKind.LOSS, _LOSS + price),
        impression=url(NoticeKind.IMPRESSION, price if profile.billing == "imp" else ""),
        click=click,
        banner_click=f"{profile.click_macro}{quote(click, safe='')}" if profile.click_macro else click,
    )


def markup(creative: Creative, opportunity: Opportunity, urls: NoticeUrls, bid_id: str) -> str:
    """Return `bid.adm` of a creative for an impression.

    Raises:
        InputError: a native slot asks for what the creative lacks, or a native creative cannot be read.
    """
    if creative.format is MediaFormat.BANNER:
        return _banner(creative, urls, bid_id)
    if creative.format is MediaFormat.NATIVE:
        return native.respond(
            opportunity.native_request,
            native.read_assets(creative.markup),
            click_url=urls.click,
            impression_urls=[urls.impression],
        )
    return _vast(creative, opportunity, urls, bid_id)


def _banner(creative: Creative, urls: NoticeUrls, bid_id: str) -> str:
    html = creative.markup
    if CLICK_URL in html or CLICK_URL_ENCODED in html:
        html = html.replace(CLICK_URL_ENCODED, quote(urls.click, safe="")).replace(CLICK_URL, escape(urls.banner_click))
    else:
        html = f'<a href="{escape(urls.banner_click)}" target="_blank" rel="noopener">{html}</a>'
    html = html.replace(CACHE_BUSTER, bid_id)
    # The ampersand before the price stays: `&p=` is no character reference, and macro scanners match plain text.
    return f'{html}<img src="{urls.impression}" width="1" height="1" alt="" style="display:none">'


def video_protocol(creative: Creative, opportunity: Opportunity) -> int:
    """Return the OpenRTB protocol (list 5.8) of the VAST document that suits creative and slot; 0 for none."""
    player = opportunity.video
    if player is not None and player.audio is not None and creative.format is MediaFormat.AUDIO:
        player = player.audio
    return vast.protocol(player.protocols if player is not None else (), creative.protocols)


def skip_after_seconds(creative: Creative, opportunity: Opportunity) -> int | None:
    """Return after how long a video ad can be skipped in the slot; None where it cannot."""
    video, duration = opportunity.video, creative.duration_seconds or 0
    if creative.format is not MediaFormat.VIDEO or video is None or not video.skippable:
        return None
    after = video.skip_after_seconds or SKIP_AFTER_SECONDS
    # VAST 2.0 has no skipping.
    shown = vast.PROTOCOLS.get(video_protocol(creative, opportunity)) != "2.0"
    return after if shown and duration > max(video.skip_min_seconds, after) else None


def _vast(creative: Creative, opportunity: Opportunity, urls: NoticeUrls, bid_id: str) -> str:
    version = vast.PROTOCOLS.get(video_protocol(creative, opportunity))
    if version is None:
        raise InputError("slot and creative share no VAST version", reason="vast_version")
    return vast.inline(
        version=version,
        ad_id=str(creative.id),
        serving_id=bid_id,
        title=creative.name,
        media_url=creative.markup,
        mime=creative.mime or ("audio/mpeg" if creative.format is MediaFormat.AUDIO else "video/mp4"),
        duration_seconds=creative.duration_seconds or 0,
        click_url=urls.click,
        impression_urls=[urls.impression],
        width=creative.width or 0,
        height=creative.height or 0,
        bitrate_kbps=creative.bitrate_kbps or 0,
        audio=creative.format is MediaFormat.AUDIO,
        skip_after_seconds=skip_after_seconds(creative, opportunity),
    )
