"""The ad's markup and the URLs in it: our notices with signed tokens and the exchange's price macros."""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from msgspec import structs

from dsp.catalog.entities import Creative, MediaFormat
from dsp.events.schema import NoticeKind
from dsp.kernel.errors import InputError
from dsp.openrtb import native, vast
from dsp.openrtb.macros import CACHE_BUSTER, CLICK_URL, CLICK_URL_ENCODED, Macro
from dsp.openrtb.opportunity import Opportunity, Video
from dsp.openrtb.profile import Profile
from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod, images

_MIN_TO_WIN = f"&m={Macro.MIN_TO_WIN.text}"
_LOSS = f"&r={Macro.LOSS.text}{_MIN_TO_WIN}"
#: An ad can be skipped after so long where the slot lets it be and does not say when.
SKIP_AFTER_SECONDS = 5
#: Has a click counted without leading on, where what is clicked leads elsewhere.
COUNT_ONLY = "&r=0"


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
            trackers=_trackers(creative, urls, bid_id),
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
    shown = [urls.impression, *[escape(url) for url in images(_theirs(creative, bid_id), TrackerEvent.IMPRESSION)]]
    return html + "".join([f'<img src="{url}" width="1" height="1" alt="" style="display:none">' for url in shown])


def _trackers(creative: Creative, urls: NoticeUrls, bid_id: str) -> list[Tracker]:
    """Return whom an impression is told, us first."""
    return [Tracker(event=TrackerEvent.IMPRESSION, url=urls.impression), *_theirs(creative, bid_id)]


def _theirs(creative: Creative, bid_id: str) -> list[Tracker]:
    return [structs.replace(one, url=one.url.replace(CACHE_BUSTER, bid_id)) for one in creative.trackers]


def video_protocol(creative: Creative, opportunity: Opportunity) -> int:
    """Return the OpenRTB protocol (list 5.8) of the VAST document that suits creative and slot; 0 for none."""
    player = _player(creative, opportunity)
    return vast.protocol(player.protocols if player is not None else (), creative.protocols, creative.mime)


def verified(creative: Creative, opportunity: Opportunity) -> bool:
    """Return whether scripts of Open Measurement go with the ad: it has some, and the player runs them."""
    if not creative.trackers:
        return False
    player = _player(creative, opportunity)
    return player is not None and player.omid and any(one.method is TrackerMethod.OMID for one in creative.trackers)


def _player(creative: Creative, opportunity: Opportunity) -> Video | None:
    player = opportunity.video
    if player is not None and player.audio is not None and creative.format is MediaFormat.AUDIO:
        return player.audio
    return player


def skip_after_seconds(creative: Creative, opportunity: Opportunity, protocol: int) -> int | None:
    """Return after how long a video ad can be skipped in the slot; None where it cannot, or that is not ours to say.

    VAST 2.0 has no skipping, and of a wrapper the document says that is in it.
    """
    video, duration = opportunity.video, creative.duration_seconds or 0
    if creative.format is not MediaFormat.VIDEO or video is None or not video.skippable:
        return None
    after = video.skip_after_seconds or SKIP_AFTER_SECONDS
    shown = vast.PROTOCOLS.get(protocol, "2.0") != "2.0"
    return after if shown and duration > max(video.skip_min_seconds, after) else None


def _vast(creative: Creative, opportunity: Opportunity, urls: NoticeUrls, bid_id: str) -> str:
    protocol = video_protocol(creative, opportunity)
    version = vast.protocols(creative.mime).get(protocol)
    if version is None:
        raise InputError("slot and creative share no VAST version", reason="vast_version")
    trackers = _trackers(creative, urls, bid_id)
    if not verified(creative, opportunity):
        trackers = [one for one in trackers if one.method is not TrackerMethod.OMID]
    if creative.mime == vast.TAG_MIME:
        click = Tracker(event=TrackerEvent.CLICK, url=urls.click + COUNT_ONLY)
        tag_url = creative.markup.replace(CLICK_URL_ENCODED, quote(urls.click, safe="")).replace(CACHE_BUSTER, bid_id)
        return vast.wrapper(version=version, ad_id=str(creative.id), tag_url=tag_url, trackers=[*trackers, click])
    return vast.inline(
        version=version,
        ad_id=str(creative.id),
        serving_id=bid_id,
        title=creative.name,
        media_url=creative.markup,
        mime=creative.mime or ("audio/mpeg" if creative.format is MediaFormat.AUDIO else "video/mp4"),
        duration_seconds=creative.duration_seconds or 0,
        click_url=urls.click,
        trackers=trackers,
        width=creative.width or 0,
        height=creative.height or 0,
        bitrate_kbps=creative.bitrate_kbps or 0,
        audio=creative.format is MediaFormat.AUDIO,
        skip_after_seconds=skip_after_seconds(creative, opportunity, protocol),
    )
