"""Bids as forms: what one creative's bids have in common is written and judged once, each bid fills in the rest."""

from functools import lru_cache
from typing import Any, NamedTuple, cast
from zlib import crc32

import msgspec

from bidder.markup import markup, notice_urls, skip_after_seconds, verified, video_protocol
from bidder.offer import Offer
from dsp.catalog.entities import Advertiser, Creative, LineItem, MediaFormat
from dsp.events.schema import BidFacts, NoticeKind, encode_facts
from dsp.kernel.ids import TokenSigner
from dsp.openrtb.categories import declared
from dsp.openrtb.check import Judgement, judge
from dsp.openrtb.names import advertised_app, domain
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.price import quote
from dsp.openrtb.profile import Profile
from dsp.openrtb.response import Bid, BidExt, Disclosure, MarkupType, Parameters
from dsp.openrtb.slot import SKIPPABLE
from dsp.openrtb.template import Template, mark
from dsp.openrtb.vast import OMID

#: Bounds on the forms that are kept, in characters: of one with its native request, and of all.
FORM_CHARS_MAX = 131_072
KEPT_CHARS_MAX = 16_777_216
_ENTRY_CHARS = 1_024
#: The marks of what each bid says itself; those of tokens follow.
_ID, _IMP_ID, _PRICE, _DEAL_ID, _EXPIRES = map(mark, range(5))
_TOKENS_FROM = 5

_MARKUP_TYPES = {
    MediaFormat.BANNER: MarkupType.BANNER,
    MediaFormat.VIDEO: MarkupType.VIDEO,
    MediaFormat.AUDIO: MarkupType.AUDIO,
    MediaFormat.NATIVE: MarkupType.NATIVE,
}
_encoder = msgspec.json.Encoder()

#: The native request, the protocol of the slot's player, after how long the ad can be skipped, and if it is verified.
_Slot = tuple[str, int, int | None, bool]
_NO_SLOT: _Slot = "", 0, None, False
_Key = tuple[int, bool, int, int, _Slot]
#: Names in a disclosure are cut to so many characters.
_NAME_CHARS_MAX = 100
_PROFILE, _CONTEXT = 1, 2  # IAB DSA extension, dsaparams
#: Of advertisers and creatives, which are few.
_declared = lru_cache(maxsize=4_096)(declared)


class Form(NamedTuple):
    """The bids of one creative for one kind of slot, with open places."""

    creative: Creative
    line_item: LineItem
    advertiser: Advertiser
    bid: Bid  # what the self-check reads of it; each bid's own copy says which it is, for what, and for how much
    judgement: Judgement
    json: Template

    def is_of(self, offer: Offer) -> bool:
        """Return whether the form is of these very entities: an identity may be another's later."""
        return (
            self.creative is offer.creative
            and self.line_item is offer.line_item
            and self.advertiser is offer.advertiser
        )

    def bid_of(self, offer: Offer) -> Bid:
        """Return the bid that an offer makes of it, without its texts."""
        opportunity, deal = offer.opportunity, offer.deal
        return msgspec.structs.replace(
            self.bid,
            id=offer.facts.bid_id,
            impid=opportunity.imp_id,
            price=quote(offer.price_micros_cpm, opportunity.currency_rate),
            dealid=deal.id if deal is not None else "",
            exp=opportunity.expires_seconds,
        )


class Forms:
    """The forms for exchanges of one kind, which agree on notices."""

    def __init__(self, base_url: str, signer: TokenSigner, profile: Profile) -> None:
        self._signer = signer
        self._domain = domain(base_url)
        wanted = {
            NoticeKind.IMPRESSION: True,
            NoticeKind.CLICK: True,
            NoticeKind.WIN: profile.win_notice,
            NoticeKind.BILL: profile.billing == "bill",
            NoticeKind.LOSS: profile.loss_notice,
        }
        #: The kinds that are signed, in the order of their marks.
        self._kinds = [kind.value for kind, sent in wanted.items() if sent]
        tokens = {NoticeKind(kind): mark(number) for number, kind in enumerate(self._kinds, _TOKENS_FROM)}
        self._urls = notice_urls(base_url, tokens, profile)
        #: By creative, whether it is in a deal, taxonomy, disclosure, and slot. Oldest first.
        self._kept: dict[_Key, Form] = {}
        self._chars = 0

    def find(self, offer: Offer) -> Form:
        """Return the form of an offer's bid.

        Raises:
            InputError: a slot asks for what the creative lacks, or a native creative cannot be read.
        """
        opportunity, creative = offer.opportunity, offer.creative
        stated = creative.categories or offer.advertiser.categories
        taxonomy, _ = _declared(stated, opportunity.category_taxonomy)
        told = _told(opportunity)
        key = (id(creative), offer.deal is not None, taxonomy, told, _slot(creative, opportunity))
        known = self._kept.get(key)
        if known is not None and known.is_of(offer):
            return known
        form = self._make(offer)
        if form.json.chars + len(opportunity.native_request) <= FORM_CHARS_MAX:
            self._keep(key, form)
        return form

    def fill(self, form: Form, bid: Bid, facts: BidFacts) -> str:
        """Return the JSON of a form's bid, with the tokens that carry its facts."""
        tokens = self._signer.tokens(self._kinds, encode_facts(facts))
        deal_id = _json(bid.dealid) if bid.dealid else ""  # then the text has no place for it
        return form.json.fill([bid.id, _json(bid.impid), _json(bid.price), deal_id, str(bid.exp), *tokens])

    def _make(self, offer: Offer) -> Form:
        creative, advertiser, opportunity = offer.creative, offer.advertiser, offer.opportunity
        creative_id = str(creative.id)
        taxonomy, categories = _declared(creative.categories or advertiser.categories, opportunity.category_taxonomy)
        protocol = video_protocol(creative, opportunity)
        skippable = skip_after_seconds(creative, opportunity, protocol) is not None
        apis = sorted({*creative.apis, OMID}) if verified(creative, opportunity) else list(creative.apis)
        bid = Bid(
            id=_ID,
            impid="",
            price=0.0,
            nurl=self._urls.win,
            burl=self._urls.bill,
            lurl=self._urls.loss,
            adm=markup(creative, opportunity, self._urls, _ID),
            adid=creative_id,
            adomain=[advertiser.domain],
            bundle=advertised_app(creative.landing_url),
            cid=str(offer.line_item.campaign_id),
            crid=_crid(creative),
            cat=list(categories),
            cattax=taxonomy,
            attr=sorted({*creative.attributes, SKIPPABLE}) if skippable else list(creative.attributes),
            apis=apis,
            api=apis[0] if apis else 0,  # for those who read 2.5, which knows one
            language=creative.language or "",
            w=creative.width or 0,
            h=creative.height or 0,
            dur=creative.duration_seconds or 0,
            protocol=protocol if creative.duration_seconds else 0,
            mtype=_MARKUP_TYPES[creative.format],
            ext=self._disclosure(advertiser, _told(opportunity)),
        )
        judgement = judge(bid)
        # The encoder takes Raw for any value, and leaves its bytes as they are.
        opened = msgspec.structs.replace(
            bid,
            impid=cast(Any, msgspec.Raw(_IMP_ID)),
            price=cast(Any, msgspec.Raw(_PRICE)),
            dealid=cast(Any, msgspec.Raw(_DEAL_ID)) if offer.deal is not None else "",
            exp=cast(Any, msgspec.Raw(_EXPIRES)),
        )
        json = Template(_encoder.encode(opened).decode())
        bid.nurl = bid.burl = bid.lurl = bid.adm = ""
        return Form(creative, offer.line_item, advertiser, bid, judgement, json)

    def _disclosure(self, advertiser: Advertiser, told: int) -> BidExt | None:
        if not told:
            return None
        name = advertiser.name[:_NAME_CHARS_MAX]
        parameters = [Parameters(self._domain, [told - 1])] if told > 1 else []
        return BidExt(Disclosure(behalf=name, paid=name, transparency=parameters, adrender=0))

    def _keep(self, key: _Key, form: Form) -> None:
        replaced = self._kept.pop(key, None)
        self._chars += _size(key, form) - (_size(key, replaced) if replaced is not None else 0)
        self._kept[key] = form
        while self._chars > KEPT_CHARS_MAX:
            oldest = next(iter(self._kept))
            self._chars -= _size(oldest, self._kept.pop(oldest))


def _crid(creative: Creative) -> str:
    """Return what exchanges review an ad by, once: another when it looks otherwise, leads or reports elsewhere."""
    size = creative.width, creative.height, creative.duration_seconds
    # They look for whom an ad calls as well: who may run scripts, set cookies, or serve it otherwise afterwards.
    called = [creative.trackers] if creative.trackers else []
    shown = creative.format, creative.markup, creative.landing_url, creative.mime, size, *called
    return f"{creative.id}-{crc32(_encoder.encode(shown)):08x}"


def _told(opportunity: Opportunity) -> int:
    """Return 0 where nothing is disclosed, 1 where it is who pays, and one more than the parameter where it is that."""
    if opportunity.disclosure < 2:
        return opportunity.disclosure
    return 1 + (_PROFILE if opportunity.may_personalise else _CONTEXT)


def _json(value: str | float) -> str:
    return _encoder.encode(value).decode()


def _slot(creative: Creative, opportunity: Opportunity) -> _Slot:
    """Return all that a bid's form takes from the opportunity."""
    if creative.format is MediaFormat.BANNER and not creative.duration_seconds:
        return _NO_SLOT
    request = opportunity.native_request if creative.format is MediaFormat.NATIVE else ""
    if request and not creative.duration_seconds:
        return request, *_NO_SLOT[1:]
    protocol = video_protocol(creative, opportunity)
    return request, protocol, skip_after_seconds(creative, opportunity, protocol), verified(creative, opportunity)


def _size(key: _Key, form: Form) -> int:
    return form.json.chars + _ENTRY_CHARS + len(key[4][0])
