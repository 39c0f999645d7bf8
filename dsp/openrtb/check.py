"""Self-check of our own response against the request it answers, before it leaves.

A bid that would break a rule is dropped and the rule's label returned; a response left without bids is None. The
check reads the request itself and trusts nothing that the decision derived from it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dsp.kernel.money import MICROS_PER_UNIT, PRICE_MICROS_CPM_MAX
from dsp.openrtb import categories, macros
from dsp.openrtb.names import codes, domain_and_parents, domains, language, lower
from dsp.openrtb.request import Banner, BidRequest, Deal, Imp, Native, Video
from dsp.openrtb.response import Bid, BidResponse, MarkupType
from dsp.openrtb.slot import banner_sizes, full_screen, plays
from dsp.openrtb.template import banner_types, insecure

#: Every label that `check` may return, for metrics to preset.
CHECKS = (
    "request_id",
    "currency",
    "seat",
    "bid_id",
    "bids_max",
    "impression",
    "price",
    "floor",
    "deal",
    "private_auction",
    "format",
    "size",
    "duration",
    "protocol",
    "api",
    "markup",
    "macro",
    "secure",
    "advertiser",
    "app",
    "category",
    "attribute",
    "language",
    "disclosure",
)

_PRICE_MAX = PRICE_MICROS_CPM_MAX / MICROS_PER_UNIT
#: Floors arrive as floats and may be converted: less than a micro's difference, in the book's currency or in the bid's,
#: is none.
_PRICE_TOLERANCE = 1e-6
_BANNER, _VIDEO, _AUDIO, _NATIVE = (kind.value for kind in MarkupType)
_JSON_OR_XML = {_BANNER: "", _VIDEO: "<", _AUDIO: "<", _NATIVE: "{"}

#: OpenRTB 2.6, 3.2.12 `at`: the floor is the price agreed.
_FIXED_PRICE = 3

_Medium = Banner | Video | Native


class Judgement(NamedTuple):
    """What the check holds of a bid's texts, whatever ids and tokens stand in them.

    Those are of `dsp.kernel.ids` alone, which complete no macro and no address.
    """

    kind: bool  # there is markup, and it is of the bid's kind
    unknown_macro: bool
    insecure: bool
    banner_types: frozenset[int]


_NO_JUDGEMENTS: Mapping[str, Judgement] = {}
_NO_RATES: Mapping[str, float] = {}


def check(
    response: BidResponse,
    request: BidRequest,
    *,
    rates: Mapping[str, float] | None = None,
    bids_max: int = 64,
    judged: Mapping[str, Judgement] = _NO_JUDGEMENTS,
) -> tuple[BidResponse | None, list[str]]:
    """Drop what would break a rule of the request.

    Args:
        response: what we are about to send.
        request: what it answers.
        rates: units of the book's currency per unit of each currency, to compare a price with a floor in another.
        bids_max: how many bids the exchange takes in one response.
        judged: by bid id, what `judge` said of the texts that the bid leaves with; others are judged here.

    Returns:
        The response without the bids dropped (None if none is left), and a label of `CHECKS` for each thing dropped.
    """
    whole = _whole(response, request)
    if whole:
        return None, [whole] * sum(len(seat.bid) for seat in response.seatbid)
    impressions = {imp.id: imp for imp in request.imp}
    ambiguous = len(impressions) != len(request.imp)
    terms = response.cur or "USD", rates or _NO_RATES
    labels: list[str] = []
    seen: set[str] = set()
    seats = []
    for seat in response.seatbid:
        of_seat, kept = _seat(seat.seat, request), []
        for bid in seat.bid:
            label = of_seat or _broken(bid, request, impressions, terms, judged.get(bid.id))
            if not label and ambiguous and [imp.id for imp in request.imp].count(bid.impid) > 1:
                label = "impression"
            if not label and (not bid.id or bid.id in seen):
                label = "bid_id"
            if not label and len(seen) >= bids_max:
                label = "bids_max"
            if label:
                labels.append(label)
            else:
                seen.add(bid.id)
                kept.append(bid)
        if kept:
            seat.bid = kept
            seats.append(seat)
    response.seatbid = seats
    return (response if seats else None), labels


def judge(bid: Bid) -> Judgement:
    """Judge a bid's texts, which may be templates' as well as those it leaves with."""
    return Judgement(
        kind=bool(bid.adm) and bid.adm.lstrip().startswith(_JSON_OR_XML[bid.mtype]),
        unknown_macro=any(macros.unknown(text) for text in (bid.adm, bid.nurl, bid.burl, bid.lurl)),
        insecure=insecure(bid.adm),
        banner_types=banner_types(bid.adm) if bid.mtype == _BANNER else frozenset(),
    )


def _whole(response: BidResponse, request: BidRequest) -> str:
    """Return what is wrong with the response apart from its bids."""
    if response.id != request.id:
        return "request_id"
    accepted = [code for code in [str(code).strip().upper() for code in request.cur] if code]
    return "currency" if accepted and (response.cur or "USD") not in accepted else ""


def _seat(seat: str, request: BidRequest) -> str:
    allowed, blocked = request.wseat, request.bseat
    if (allowed and seat not in map(str, allowed)) or (blocked and seat in map(str, blocked)):
        return "seat"
    return ""


def _broken(
    bid: Bid,
    request: BidRequest,
    impressions: Mapping[str, Imp],
    terms: tuple[str, Mapping[str, float]],
    judgement: Judgement | None,
) -> str:
    """Return the label of the first rule that the bid breaks, or ""."""
    imp = impressions.get(bid.impid)
    if imp is None:
        return "impression"
    currency, rates = terms
    if not 0 < bid.price * rates.get(currency, 1.0) <= _PRICE_MAX:
        return "price"
    medium = _medium(bid, imp)
    if medium is None:
        return "format"
    return (
        _terms(bid, imp, medium, *terms)
        or _fit(bid, imp, medium, request)
        or _markup(imp, medium, judgement or judge(bid))
        or _blocks(bid, imp, medium, request)
    )


def _medium(bid: Bid, imp: Imp) -> _Medium | None:
    """Return the slot's object that the bid answers, None where the slot does not offer it."""
    kind = bid.mtype
    if kind == _BANNER:
        return imp.banner
    if kind == _VIDEO:
        return imp.video if imp.video is not None and plays(imp.video) else None
    if kind == _AUDIO:
        return imp.audio
    return imp.native if kind == _NATIVE else None


def _terms(bid: Bid, imp: Imp, medium: _Medium, currency: str, rates: Mapping[str, float]) -> str:
    """Check deal, private auction and floor (3.2.11, 3.2.12, 7.11)."""
    floor, floor_currency = imp.bidfloor, imp.bidfloorcur
    offered = imp.pmp.deals if imp.pmp is not None else []
    if bid.dealid:
        deal = next((deal for deal in offered if deal.id == bid.dealid), None)
        if deal is None or not _deal_admits(deal, bid):
            return "deal"
        floor, floor_currency = deal.bidfloor, deal.bidfloorcur
        if deal.at != _FIXED_PRICE:
            floor = _floor_by_duration(bid, deal, floor)
    elif imp.pmp is not None and imp.pmp.private_auction == 1:
        return "private_auction"
    elif isinstance(medium, Video):
        floor = _floor_by_duration(bid, medium, floor)
    if floor == 0:
        return ""
    floor_currency = floor_currency.strip().upper()
    if floor_currency == currency:
        return "" if bid.price >= floor - _PRICE_TOLERANCE else "floor"
    rate, floor_rate = rates.get(currency), rates.get(floor_currency or "USD")
    if rate is None or floor_rate is None:
        return "floor"
    return "" if bid.price * rate >= floor * floor_rate - _PRICE_TOLERANCE * max(1.0, rate) else "floor"


def _deal_admits(deal: Deal, bid: Bid) -> bool:
    allowed = domains(deal.wadomain)
    return not allowed or any(not allowed.isdisjoint(domain_and_parents(name)) for name in bid.adomain)


def _floor_by_duration(bid: Bid, terms: Video | Deal, floor: float) -> float:
    """Return the floor of the bid's duration where the slot, or its deal, prices by duration (7.11)."""
    for band in terms.durfloors:
        if bid.dur and band.mindur <= bid.dur <= band.maxdur:
            return band.bidfloor
    return max(floor, terms.mincpmpersec * bid.dur)


def _fit(bid: Bid, imp: Imp, medium: _Medium, request: BidRequest) -> str:
    """Check frameworks, size, duration and protocol."""
    if bid.apis and not set(bid.apis) <= set(medium.api):
        return "api"
    if isinstance(medium, Banner):
        sizes = banner_sizes(medium, full_screen(imp, request.device))
        return "size" if sizes is not None and (bid.w, bid.h) not in sizes else ""
    if isinstance(medium, Native):
        return ""
    if bid.dur:
        longest = min([seconds for seconds in (medium.maxduration, medium.poddur) if seconds > 0], default=bid.dur)
        if bid.dur not in (medium.rqddurs or [bid.dur]) or not medium.minduration <= bid.dur <= longest:
            return "duration"
    protocols = medium.protocols or medium.protocol
    return "protocol" if protocols and bid.protocol and bid.protocol not in protocols else ""


def _markup(imp: Imp, medium: _Medium, judgement: Judgement) -> str:
    """Check that there is markup of its kind, nothing blocked in it, nor insecure where the slot must be secure."""
    if not judgement.kind:
        return "markup"
    if judgement.unknown_macro:
        return "macro"
    if isinstance(medium, Banner) and not judgement.banner_types.isdisjoint(medium.btype):
        return "attribute"
    return "secure" if imp.secure == 1 and judgement.insecure else ""


def _blocks(bid: Bid, imp: Imp, medium: _Medium, request: BidRequest) -> str:
    """Check advertiser, app, categories, attributes, language and what must be disclosed."""
    if not bid.adomain:
        return "advertiser"
    if request.badv:
        blocked = domains(request.badv)
        for name in bid.adomain:
            if not blocked.isdisjoint(domain_and_parents(name)):
                return "advertiser"
    if request.bapp and bid.bundle and bid.bundle.lower() in lower(request.bapp):
        return "app"
    if (request.bcat or imp.bcat or request.acat) and _category_refused(bid, imp, request):
        return "category"
    if not set(bid.attr).isdisjoint(medium.battr):
        return "attribute"
    if _undisclosed(bid, request):
        return "disclosure"
    spoken = request.wlang or request.wlangb
    if not spoken or not bid.language:
        return ""
    return "" if language(bid.language) in {language(str(code)) for code in spoken} else "language"


def _undisclosed(bid: Bid, request: BidRequest) -> bool:
    """Return whether the Digital Services Act demands what the bid does not say, or what nobody shows."""
    ext = request.regs.ext if request.regs is not None else None
    if ext is None or ext.dsa is None or ext.dsa.dsarequired < 2:
        return False
    return ext.dsa.pubrender == 0 or bid.ext is None or bid.ext.dsa is None


def _category_refused(bid: Bid, imp: Imp, request: BidRequest) -> bool:
    barred, allowed = codes(request.bcat + imp.bcat), codes(request.acat)
    if bid.cattax != request.cattax and categories.later(barred | allowed, categories.taxonomy(request.cattax)):
        return True  # nobody can tell
    return categories.refused([code.upper() for code in bid.cat], barred, allowed)
