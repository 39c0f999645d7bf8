"""From offers to the response: bids with markup and notice URLs, checked by our own rules before they leave."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bidder.markup import markup, notice_urls, video_protocol
from bidder.offer import Offer
from dsp.catalog.entities import MediaFormat
from dsp.kernel import metrics
from dsp.kernel.errors import InputError
from dsp.kernel.ids import TokenSigner, new_id
from dsp.openrtb.check import CHECKS, check
from dsp.openrtb.codec import encode_response
from dsp.openrtb.price import quote
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import BidRequest
from dsp.openrtb.response import Bid, BidResponse, MarkupType, SeatBid

_MARKUP_TYPES = {
    MediaFormat.BANNER: MarkupType.BANNER,
    MediaFormat.VIDEO: MarkupType.VIDEO,
    MediaFormat.AUDIO: MarkupType.AUDIO,
    MediaFormat.NATIVE: MarkupType.NATIVE,
}


class Response(NamedTuple):
    """The body to send and the offers in it; no body when nothing survived the check."""

    body: bytes
    offers: list[Offer]


class Responder:
    """Holds what every response needs: where notices go, and the keys that sign them."""

    def __init__(self, base_url: str, signer: TokenSigner, rates: Mapping[str, float]) -> None:
        self._base_url = base_url.rstrip("/")
        self._signer = signer
        self._rates = rates
        self._dropped = {label: metrics.BIDS_DROPPED.labels(label) for label in (*CHECKS, "markup_failed")}

    def respond(self, request: BidRequest, profile: Profile, offers: Sequence[Offer], now_ms: int) -> Response:
        """Return the response to a request that carries every offer which breaks no rule."""
        made = [(offer, bid) for offer in offers if (bid := self._bid(offer, profile)) is not None]
        if not made:
            return Response(b"", [])
        response = BidResponse(
            id=request.id,
            bidid=new_id(now_ms),
            cur=offers[0].opportunity.currency,
            seatbid=[SeatBid(bid=[bid for _, bid in made], seat=profile.seat)],
        )
        checked, labels = check(response, request, rates=self._rates, bids_max=profile.bids_max)
        for label in labels:
            self._dropped[label].inc()
        if checked is None:
            return Response(b"", [])
        kept = {bid.id for seat in checked.seatbid for bid in seat.bid} if labels else None
        sent = [offer for offer, bid in made if kept is None or bid.id in kept]
        return Response(encode_response(checked), sent)

    def no_bid(self, request_id: str, nbr: int) -> bytes:
        """Return the body of a "no" that says why, for exchanges that read it."""
        return encode_response(BidResponse(id=request_id, nbr=nbr))

    def _bid(self, offer: Offer, profile: Profile) -> Bid | None:
        facts, creative, opportunity = offer.facts, offer.creative, offer.opportunity
        urls = notice_urls(self._base_url, self._signer, facts, profile.billing == "imp")
        try:
            adm = markup(creative, opportunity, urls, facts.bid_id)
        except InputError:
            self._dropped["markup_failed"].inc()
            return None
        return Bid(
            id=facts.bid_id,
            impid=opportunity.imp_id,
            price=quote(offer.price_micros_cpm, opportunity.currency_rate),
            nurl=urls.win if profile.win_notice else "",
            burl=urls.bill if profile.billing == "bill" else "",
            lurl=urls.loss if profile.loss_notice else "",
            adm=adm,
            adid=str(creative.id),
            adomain=[offer.advertiser.domain],
            cid=str(offer.line_item.campaign_id),
            crid=str(creative.id),
            cat=list(creative.categories or offer.advertiser.categories),
            attr=list(creative.attributes),
            apis=list(creative.apis),
            language=creative.language or "",
            dealid=offer.deal.id if offer.deal is not None else "",
            w=creative.width or 0,
            h=creative.height or 0,
            exp=profile.notice_ttl_seconds,
            dur=creative.duration_seconds or 0,
            protocol=video_protocol(creative, opportunity) if creative.duration_seconds else 0,
            mtype=_MARKUP_TYPES[creative.format],
        )
