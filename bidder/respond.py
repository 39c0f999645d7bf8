"""From offers to the response: bids with markup and notice URLs, checked by our own rules before they leave."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from bidder.form import Form, Forms
from bidder.offer import Offer
from dsp.kernel import logging, metrics
from dsp.kernel.errors import InputError
from dsp.kernel.ids import TokenSigner
from dsp.openrtb.check import CHECKS, check
from dsp.openrtb.codec import encode_response
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import BidRequest
from dsp.openrtb.response import BidResponse, SeatBid

#: Creatives, each with the rule that its bids break, that a process names in its log; it counts all.
TOLD_MAX = 1_000


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
        self._forms: dict[tuple[str, bool, bool, str, str], Forms] = {}
        self._dropped = {label: metrics.BIDS_DROPPED.labels(label) for label in (*CHECKS, "markup_failed")}
        self._told: set[tuple[str, int]] = set()

    def respond(self, request: BidRequest, profile: Profile, offers: Sequence[Offer]) -> Response:
        """Return the response to a request that carries every offer which breaks no rule."""
        forms = self._forms_for(profile)
        made, bids, judged = [], [], {}
        for offer in offers:
            form = self._form(forms, offer)
            if form is not None:
                bid = form.bid_of(offer)
                made.append((bid, offer, form))
                bids.append(bid)
                judged[bid.id] = form.judgement
        if not made:
            return Response(b"", [])
        response = BidResponse(
            id=request.id,
            bidid=bids[0].id,  # which the event log knows
            cur=offers[0].opportunity.currency,
            seatbid=[SeatBid(bid=bids, seat=profile.seat)],
        )
        checked, labels = check(response, request, rates=self._rates, bids_max=profile.bids_max, judged=judged)
        kept = None
        if labels:
            kept = {bid.id for seat in checked.seatbid for bid in seat.bid} if checked is not None else set()
            for label, offer in zip(labels, [offer for bid, offer, _ in made if bid.id not in kept], strict=True):
                self._withhold(offer, label)
        if checked is None:
            return Response(b"", [])
        [seat] = checked.seatbid
        sent, written = [], []
        for bid, offer, form in made:
            if kept is None or bid.id in kept:
                sent.append(offer)
                written.append(msgspec.Raw(forms.fill(form, bid, offer.facts)))
        seat.bid = cast(Any, written)
        return Response(encode_response(checked), sent)

    def no_bid(self, request_id: str, nbr: int) -> bytes:
        """Return the body of a "no" that says why, for exchanges that read it."""
        return encode_response(BidResponse(id=request_id, nbr=nbr))

    def _forms_for(self, profile: Profile) -> Forms:
        macros = profile.price_encoding, profile.click_macro
        key = (profile.billing, profile.win_notice, profile.loss_notice, *macros)
        forms = self._forms.get(key)
        if forms is None:
            forms = self._forms[key] = Forms(self._base_url, self._signer, profile)
        return forms

    def _form(self, forms: Forms, offer: Offer) -> Form | None:
        try:
            return forms.find(offer)
        except InputError as fault:
            self._withhold(offer, "markup_failed", str(fault))
            return None

    def _withhold(self, offer: Offer, label: str, fault: str = "") -> None:
        """Count a bid that is not sent, and log once whose it is: a metric has no label for creatives."""
        self._dropped[label].inc()
        creative = offer.creative.id
        if (label, creative) not in self._told and len(self._told) < TOLD_MAX:
            self._told.add((label, creative))
            told = {"check": label, "creative_id": creative, "exchange": offer.facts.exchange, "fault": fault}
            logging.get(__name__).warning("bid withheld", **told)
