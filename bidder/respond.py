"""From offers to the response: bids with markup and notice URLs, checked by our own rules before they leave."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bidder.markup import Writer, video_protocol
from bidder.offer import Offer
from dsp.catalog.entities import MediaFormat
from dsp.kernel import metrics
from dsp.kernel.errors import InputError
from dsp.kernel.ids import TokenSigner, new_id
from dsp.openrtb.check import CHECKS, Origin, check
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
        self._writers: dict[tuple[str, bool, bool], Writer] = {}
        self._dropped = {label: metrics.BIDS_DROPPED.labels(label) for label in (*CHECKS, "markup_failed")}

    def respond(self, request: BidRequest, profile: Profile, offers: Sequence[Offer], now_ms: int) -> Response:
        """Return the response to a request that carries every offer which breaks no rule."""
        origins: dict[str, Origin] = {}
        made = [(offer, bid) for offer in offers if (bid := self._bid(offer, profile, origins)) is not None]
        if not made:
            return Response(b"", [])
        response = BidResponse(
            id=request.id,
            bidid=new_id(now_ms),
            cur=offers[0].opportunity.currency,
            seatbid=[SeatBid(bid=[bid for _, bid in made], seat=profile.seat)],
        )
        checked, labels = check(response, request, rates=self._rates, bids_max=profile.bids_max, origins=origins)
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

    def _writer(self, profile: Profile) -> Writer:
        key = (profile.billing, profile.win_notice, profile.loss_notice)
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = Writer(self._base_url, self._signer, profile)
        return writer

    def _bid(self, offer: Offer, profile: Profile, origins: dict[str, Origin]) -> Bid | None:
        facts, creative, opportunity = offer.facts, offer.creative, offer.opportunity
        try:
            texts = self._writer(profile).write(creative, opportunity, facts)
        except InputError:
            self._dropped["markup_failed"].inc()
            return None
        origins[facts.bid_id] = texts.origin
        creative_id = str(creative.id)
        return Bid(
            id=facts.bid_id,
            impid=opportunity.imp_id,
            price=quote(offer.price_micros_cpm, opportunity.currency_rate),
            nurl=texts.nurl,
            burl=texts.burl,
            lurl=texts.lurl,
            adm=texts.adm,
            adid=creative_id,
            adomain=[offer.advertiser.domain],
            cid=str(offer.line_item.campaign_id),
            crid=creative_id,
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
