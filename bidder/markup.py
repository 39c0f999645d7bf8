"""The ad's markup and the URLs in it: our notices with signed tokens and the exchange's price macros."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from dsp.catalog.entities import Creative, MediaFormat
from dsp.events.schema import BidFacts, NoticeKind, encode_facts
from dsp.kernel.errors import InputError
from dsp.kernel.ids import TokenSigner
from dsp.openrtb import native, vast
from dsp.openrtb.check import Origin
from dsp.openrtb.macros import Macro
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from dsp.openrtb.template import Template, mark

_PRICE = f"&p={Macro.PRICE.text}"
_MIN_TO_WIN = f"&m={Macro.MIN_TO_WIN.text}"
_LOSS = f"&r={Macro.LOSS.text}{_MIN_TO_WIN}{_PRICE}"
#: A skippable slot's ad can be skipped after so long.
SKIP_AFTER_SECONDS = 5
#: What a creative's markup may hold of ours: the click redirect, plain or percent-encoded, and a number against caches.
CLICK_URL = "${CLICK_URL}"
CLICK_URL_ENCODED = "${CLICK_URL_ENC}"
CACHE_BUSTER = "${CACHEBUSTER}"
#: Bounds on the templates a writer keeps, in characters: of one with its native request, and of all.
TEMPLATE_CHARS_MAX = 131_072
KEPT_CHARS_MAX = 8_388_608
_ENTRY_CHARS = 512

#: The native request; protocol and whether it may be skipped; nothing for a banner.
_Slot = str | tuple[int, bool] | None


class NoticeUrls(NamedTuple):
    """Where each of a bid's notices goes; prices and reasons are the exchange's macros."""

    win: str
    bill: str
    loss: str
    impression: str
    click: str


class Texts(NamedTuple):
    """The texts of one bid: its markup, the notice URLs that the exchange wants ("" otherwise), and their origin."""

    adm: str
    nurl: str
    burl: str
    lurl: str
    origin: Origin


class Writer:
    """Writes the texts of bids for exchanges of one kind: what does not vary is written once, tokens are filled in."""

    def __init__(self, base: str, signer: TokenSigner, profile: Profile) -> None:
        self._signer = signer
        wanted = {
            NoticeKind.IMPRESSION: True,
            NoticeKind.CLICK: True,
            NoticeKind.WIN: profile.win_notice,
            NoticeKind.BILL: profile.billing == "bill",
            NoticeKind.LOSS: profile.loss_notice,
        }
        #: The kinds that are signed, in the order of their marks; mark 0 is the bid's id.
        self._kinds = [kind.value for kind, sent in wanted.items() if sent]
        self._urls = _notice_urls(base, self._kinds, profile.billing == "imp")
        self._notices = (Template(self._urls.win), Template(self._urls.bill), Template(self._urls.loss))
        #: By creative and slot, with the creative it was made of: an identity may be another's later. Oldest first.
        self._templates: dict[tuple[int, _Slot], tuple[Creative, Template]] = {}
        self._chars = 0

    def write(self, creative: Creative, opportunity: Opportunity, facts: BidFacts) -> Texts:
        """Return the texts of one bid.

        Raises:
            InputError: a slot asks for what the creative lacks, or a native creative cannot be read.
        """
        template = self._template(creative, opportunity)
        values = [facts.bid_id, *self._signer.tokens(self._kinds, encode_facts(facts))]
        win, bill, loss = self._notices
        texts = template.fill(values), win.fill(values), bill.fill(values), loss.fill(values)
        return Texts(*texts, Origin(template, self._notices, texts))

    def _template(self, creative: Creative, opportunity: Opportunity) -> Template:
        key = (id(creative), _slot(creative, opportunity))
        known = self._templates.get(key)
        if known is not None and known[0] is creative:
            return known[1]
        template = Template(markup(creative, opportunity, self._urls, mark(0)))
        if template.chars + len(opportunity.native_request) <= TEMPLATE_CHARS_MAX:
            self._keep(key, creative, template)
        return template

    def _keep(self, key: tuple[int, _Slot], creative: Creative, template: Template) -> None:
        replaced = self._templates.pop(key, None)
        self._chars += _size(key, template) - (_size(key, replaced[1]) if replaced is not None else 0)
        self._templates[key] = (creative, template)
        while self._chars > KEPT_CHARS_MAX:
            oldest = next(iter(self._templates))
            self._chars -= _size(oldest, self._templates.pop(oldest)[1])


def _slot(creative: Creative, opportunity: Opportunity) -> _Slot:
    """Return all that the markup takes from the opportunity."""
    if creative.format is MediaFormat.BANNER:
        return None
    if creative.format is MediaFormat.NATIVE:
        return opportunity.native_request
    return video_protocol(creative, opportunity), opportunity.video is not None and opportunity.video.skippable


def _size(key: tuple[int, _Slot], template: Template) -> int:
    slot = key[1]
    return template.chars + _ENTRY_CHARS + (len(slot) if isinstance(slot, str) else 0)


def _notice_urls(base: str, kinds: Sequence[str], priced_impression: bool) -> NoticeUrls:
    """Return the URLs with marks for tokens; the impression's carries the price where the exchange bills on it."""

    def url(kind: NoticeKind, rest: str = "") -> str:
        return f"{base}/{kind.value}?t={mark(1 + kinds.index(kind.value))}{rest}" if kind.value in kinds else ""

    return NoticeUrls(
        win=url(NoticeKind.WIN, _PRICE + _MIN_TO_WIN),
        bill=url(NoticeKind.BILL, _PRICE + _MIN_TO_WIN),
        loss=url(NoticeKind.LOSS, _LOSS),
        impression=url(NoticeKind.IMPRESSION, _PRICE if priced_impression else ""),
        click=url(NoticeKind.CLICK),
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
        html = html.replace(CLICK_URL_ENCODED, quote(urls.click, safe="")).replace(CLICK_URL, escape(urls.click))
    else:
        html = f'<a href="{escape(urls.click)}" target="_blank" rel="noopener">{html}</a>'
    html = html.replace(CACHE_BUSTER, bid_id)
    # The ampersand before the price stays: `&p=` is no character reference, and macro scanners match plain text.
    return f'{html}<img src="{urls.impression}" width="1" height="1" alt="" style="display:none">'


def video_protocol(creative: Creative, opportunity: Opportunity) -> int:
    """Return the OpenRTB protocol (list 5.8) of the VAST document that suits creative and slot; 0 for none."""
    return vast.protocol(opportunity.video.protocols if opportunity.video is not None else (), creative.protocols)


def _vast(creative: Creative, opportunity: Opportunity, urls: NoticeUrls, bid_id: str) -> str:
    version = vast.PROTOCOLS.get(video_protocol(creative, opportunity))
    if version is None:
        raise InputError("slot and creative share no VAST version", reason="vast_version")
    skippable = opportunity.video is not None and opportunity.video.skippable
    return vast.inline(
        version=version,
        ad_id=str(creative.id),
        title=creative.name,
        media_url=creative.markup.replace(CACHE_BUSTER, bid_id),
        mime=creative.mime or ("audio/mpeg" if creative.format is MediaFormat.AUDIO else "video/mp4"),
        duration_seconds=creative.duration_seconds or 0,
        click_url=urls.click,
        impression_urls=[urls.impression],
        width=creative.width or 0,
        height=creative.height or 0,
        bitrate_kbps=creative.bitrate_kbps or 0,
        audio=creative.format is MediaFormat.AUDIO,
        skip_after_seconds=SKIP_AFTER_SECONDS if skippable else None,
    )
