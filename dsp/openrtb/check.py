"""Self-check of our own response against the request it answers, before it leaves.

A bid that would break a rule is dropped and the rule's label returned; a response left without bids is None. The
check reads the request itself and trusts nothing that the decision derived from it.
"""

import re
from collections.abc import Callable, Mapping
from math import isfinite

from dsp.kernel.money import MICROS_PER_UNIT, PRICE_MICROS_CPM_MAX
from dsp.openrtb import macros
from dsp.openrtb.names import codes, domain, domains
from dsp.openrtb.request import Banner, BidRequest, Deal, Imp, Native, Video
from dsp.openrtb.response import Bid, BidResponse, MarkupType
from dsp.openrtb.slot import banner_sizes

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
    "markup",
    "macro",
    "secure",
    "advertiser",
    "category",
    "attribute",
    "language",
)

_PRICE_MAX = PRICE_MICROS_CPM_MAX / MICROS_PER_UNIT
#: Floors arrive as floats and may be converted: less than a micro's difference is none.
_PRICE_TOLERANCE = 1e-6
_AUCTION_FIXED = 3
_JSON_OR_XML = {MarkupType.VIDEO: "<", MarkupType.AUDIO: "<", MarkupType.NATIVE: "{"}
#: Browsers hold loopback addresses to be secure (W3C Mixed Content, 4), which lets one machine try everything out.
_LOOPBACK = r"(?!//(?:127\.0\.0\.1|localhost|\[::1\])[:/])"
_INSECURE_URL = re.compile(r"http:" + _LOOPBACK, re.IGNORECASE)
#: http: as the value of an attribute, in url(), in a VAST node or in a JSON or script string loads something insecure.
_INSECURE = re.compile(r"""(?:[="'(>]|<!\[CDATA\[)\s*http:""" + _LOOPBACK, re.IGNORECASE)
#: What is only followed when a person clicks, and XML namespaces, which nothing loads at all.
_NAVIGATION = re.compile(
    r"""<a\s[^>]*>|<(ClickThrough|IconClickThrough|CompanionClickThrough)\b[^>]*>.*?</\1>
    |"link":\{"url":"[^"]*"|xmlns(?::\w+)?\s*=\s*(?:"[^"]*"|'[^']*')|http://www\.w3\.org/[\w./#-]*""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)

_Medium = Banner | Video | Native


def check(
    response: BidResponse,
    request: BidRequest,
    *,
    rates: Mapping[str, float] | None = None,
    bids_max: int = 64,
) -> tuple[BidResponse | None, list[str]]:
    """Drop what would break a rule of the request.

    Args:
        response: what we are about to send.
        request: what it answers.
        rates: units of the book's currency per unit of each currency, to compare a price with a floor in another.
        bids_max: how many bids the exchange takes in one response.

    Returns:
        The response without the bids dropped (None if none is left), and a label of `CHECKS` for each thing dropped.
    """
    whole = _whole(response, request)
    if whole:
        return None, [whole] * max(1, sum(len(seat.bid) for seat in response.seatbid))
    impressions = {imp.id: imp for imp in request.imp}
    ambiguous = len(impressions) != len(request.imp)
    labels: list[str] = []
    seen: set[str] = set()
    seats = []
    for seat in response.seatbid:
        kept = []
        for bid in seat.bid:
            label = _seat(seat.seat, request) or _broken(bid, request, impressions, response.cur or "USD", rates or {})
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


def _whole(response: BidResponse, request: BidRequest) -> str:
    """Return what is wrong with the response apart from its bids."""
    if response.id != request.id:
        return "request_id"
    accepted = [str(code).upper() for code in request.cur]
    return "currency" if accepted and (response.cur or "USD") not in accepted else ""


def _seat(seat: str, request: BidRequest) -> str:
    allowed, blocked = request.wseat, request.bseat
    if (allowed and seat not in map(str, allowed)) or (blocked and seat in map(str, blocked)):
        return "seat"
    return ""


def _broken(
    bid: Bid, request: BidRequest, impressions: Mapping[str, Imp], currency: str, rates: Mapping[str, float]
) -> str:
    """Return the label of the first rule that the bid breaks, or ""."""
    imp = impressions.get(bid.impid)
    if imp is None:
        return "impression"
    if not isfinite(bid.price) or not 0 < bid.price <= _PRICE_MAX:
        return "price"
    medium = _medium(bid, imp)
    if medium is None:
        return "format"
    steps: tuple[Callable[[], str], ...] = (
        lambda: _terms(bid, imp, medium, request, currency, rates),
        lambda: _fit(bid, imp, medium, request),
        lambda: _markup(bid, imp),
        lambda: _blocks(bid, imp, medium, request),
    )
    return next((label for label in (step() for step in steps) if label), "")


def _medium(bid: Bid, imp: Imp) -> _Medium | None:
    """Return the slot's object that the bid answers, None where the slot does not offer it."""
    offered: dict[int, _Medium | None] = {
        MarkupType.BANNER: imp.banner,
        MarkupType.VIDEO: imp.video,
        MarkupType.AUDIO: imp.audio,
        MarkupType.NATIVE: imp.native,
    }
    return offered.get(bid.mtype)


def _terms(bid: Bid, imp: Imp, medium: _Medium, request: BidRequest, currency: str, rates: Mapping[str, float]) -> str:
    """Check deal, private auction and floor (3.2.11, 3.2.12, 7.11)."""
    floor, floor_currency = imp.bidfloor, imp.bidfloorcur
    offered = imp.pmp.deals if imp.pmp is not None else []
    if bid.dealid:
        deal = next((deal for deal in offered if deal.id == bid.dealid), None)
        if deal is None or not _deal_admits(deal, bid):
            return "deal"
        floor, floor_currency = deal.bidfloor, deal.bidfloorcur
    elif imp.pmp is not None and imp.pmp.private_auction == 1:
        return "private_auction"
    elif isinstance(medium, Video):
        floor = _floor_by_duration(bid, medium, floor)
    rate, floor_rate = rates.get(currency), rates.get(floor_currency.upper() or "USD")
    if floor_currency.upper() == currency:
        rate = floor_rate = 1.0
    if floor == 0:
        return ""
    if rate is None or floor_rate is None or not isfinite(floor):
        return "floor"
    return "" if bid.price * rate >= floor * floor_rate - _PRICE_TOLERANCE else "floor"


def _deal_admits(deal: Deal, bid: Bid) -> bool:
    allowed = domains(deal.wadomain)
    return not allowed or any(domain(name) in allowed for name in bid.adomain)


def _floor_by_duration(bid: Bid, video: Video, floor: float) -> float:
    """Return the floor of the bid's duration where the slot prices by duration (7.11)."""
    for band in video.durfloors:
        if bid.dur and band.mindur <= bid.dur <= band.maxdur:
            return band.bidfloor
    return max(floor, video.mincpmpersec * bid.dur)


def _fit(bid: Bid, imp: Imp, medium: _Medium, request: BidRequest) -> str:
    """Check size, duration and protocol."""
    if isinstance(medium, Banner):
        sizes = banner_sizes(medium, imp, request.device)
        return "size" if sizes and (bid.w, bid.h) not in sizes else ""
    if isinstance(medium, Native):
        return ""
    if bid.dur:
        longest = medium.maxduration or bid.dur
        if bid.dur not in (medium.rqddurs or [bid.dur]) or not medium.minduration <= bid.dur <= longest:
            return "duration"
    protocols = medium.protocols or medium.protocol
    return "protocol" if protocols and bid.protocol and bid.protocol not in protocols else ""


def _markup(bid: Bid, imp: Imp) -> str:
    """Check that there is markup of its kind, and nothing insecure in it where the slot must be secure."""
    if not bid.adm or not bid.adm.lstrip().startswith(_JSON_OR_XML.get(MarkupType(bid.mtype), "")):
        return "markup"
    if any(macros.unknown(text) for text in (bid.adm, bid.nurl, bid.burl, bid.lurl)):
        return "macro"
    if imp.secure == 1 and "http:" in bid.adm.lower() and _INSECURE.search(_NAVIGATION.sub("", bid.adm)):
        return "secure"
    return ""


def _blocks(bid: Bid, imp: Imp, medium: _Medium, request: BidRequest) -> str:
    """Check advertiser, categories, attributes and language."""
    blocked = domains(request.badv)
    if any(_within(domain(name), blocked) for name in bid.adomain) or not bid.adomain:
        return "advertiser"
    barred = codes(request.bcat + imp.bcat)
    allowed = codes(request.acat)
    for code in map(str.upper, bid.cat):
        # Blocking IAB25 blocks IAB25-3, which is a part of it.
        if {code, code.partition("-")[0]} & barred or (allowed and not {code, code.partition("-")[0]} & allowed):
            return "category"
    if set(bid.attr) & set(medium.battr):
        return "attribute"
    languages = {str(code).lower()[:2] for code in request.wlang or request.wlangb}
    return "language" if languages and bid.language and bid.language.lower()[:2] not in languages else ""


def _within(name: str, blocked: frozenset[str]) -> bool:
    """Return whether the domain or a parent of it is blocked."""
    while name:
        if name in blocked:
            return True
        name = name.partition(".")[2]
    return False
