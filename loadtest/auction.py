"""The exchange's rules, pure: is a response valid, who wins, at what price, and what the notice URLs become."""

import html
import re
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from dsp.kernel.money import PRICE_MICROS_CPM_MAX, Micros, decimal_from_micros, price_micros_from_cpm
from dsp.openrtb.macros import expand
from loadtest.traffic import Request, Slot

LOSS_EXPIRED = 2  # list 5.25: the impression opportunity expired
LOSS_OUTBID = 102
CLICK_ID_PARAMETER = "dsp_click_id"
_MTYPE = {1: "banner", 2: "video", 3: "audio", 4: "native"}
SECOND_PRICE_STEP: Micros = 10_000  # a cent above the best rival
_URL = re.compile(r"https?://[^\s\"'<>\\\]]+")


class Clearing(NamedTuple):
    """How one impression's auction ended. `price_micros_cpm` is what the winner pays, or would have had to beat."""

    won: bool
    price_micros_cpm: Micros
    min_to_win_micros_cpm: Micros


@dataclass(frozen=True, slots=True)
class Offer:
    """One valid bid as the exchange reads it."""

    slot: Slot
    bid_id: str
    price_micros_cpm: Micros
    seat: str
    bid: dict[str, Any]
    currency: str

    @property
    def deal(self) -> tuple[float, int] | None:
        """Return the floor and the auction type of the deal that the bid names."""
        return self.slot.deals.get(str(self.bid.get("dealid", "")))


def read(response: Any, request: Request) -> tuple[list[Offer], list[str]]:
    """Return the valid bids of a decoded response, and the label of every rule that is broken (OpenRTB 2.6, 4)."""
    if not isinstance(response, dict):
        return [], ["response_not_object"]
    faults: list[str] = []
    if response.get("id") != request.id:
        faults.append("response_id")
    if response.get("cur", "USD") not in request.payload["cur"]:
        faults.append("currency")
    if faults:
        return [], faults
    offers: list[Offer] = []
    slots = {slot.imp_id: slot for slot in request.slots}
    for seat in response.get("seatbid", []):
        for bid in seat.get("bid", []):
            broken = _bid_faults(bid, slots.get(str(bid.get("impid"))), request)
            faults += broken
            if not broken:
                slot = slots[bid["impid"]]
                price = price_micros_from_cpm(bid["price"])
                offers.append(Offer(slot, bid["id"], price, seat.get("seat", ""), bid, response.get("cur", "USD")))
    return offers, faults


def _bid_faults(bid: dict[str, Any], slot: Slot | None, request: Request) -> list[str]:
    if slot is None:
        return ["unknown_imp"]
    price, deal = bid.get("price"), bid.get("dealid")
    if not isinstance(price, int | float) or not 0 < price < PRICE_MICROS_CPM_MAX / 1e6:
        return ["price"]
    floor = slot.floor_cpm if deal is None else slot.deals.get(deal, (0.0, 0))[0]
    domains = bid.get("adomain") or []
    size = f"{bid.get('w')}x{bid.get('h')}"
    rules = {
        "bid_id": bool(bid.get("id")),
        "below_floor": price >= floor - 1e-9,
        "unknown_deal": deal is None or deal in slot.deals,
        "no_adomain": bool(domains),
        "blocked_advertiser": not set(domains) & set(request.payload.get("badv", ())),
        "blocked_category": not set(bid.get("cat", ())) & set(request.payload["bcat"]),
        "no_crid": bool(bid.get("crid")),
        "wrong_mtype": _MTYPE.get(bid.get("mtype", 0), slot.format) == slot.format,
        "wrong_size": slot.format != "banner" or size == slot.size,
        "no_markup": _markup_fits(bid.get("adm", ""), slot.format),
    }
    return [label for label, holds in rules.items() if not holds]


def _markup_fits(markup: str, media: str) -> bool:
    start = markup.lstrip()[:200]
    if media in {"video", "audio"}:
        return "<VAST" in start
    return start.startswith("{") if media == "native" else bool(start)


def best(offers: list[Offer]) -> dict[str, Offer]:
    """Return our best bid for each impression; a bid on a deal goes before any in the open auction."""
    chosen: dict[str, Offer] = {}
    for offer in offers:
        other = chosen.get(offer.slot.imp_id)
        if other is None or _rank(offer) > _rank(other):
            chosen[offer.slot.imp_id] = offer
    return chosen


def _rank(offer: Offer) -> tuple[bool, Micros]:
    return offer.deal is not None, offer.price_micros_cpm


def clear(offer: Offer, rival_cpm: float, *, first_price: bool) -> Clearing:
    """Run the auction of one impression against the best rival.

    A bid on a deal wins over the open auction: it pays its price (`at` 1), or the deal's (`at` 2 and 3).
    """
    bid = offer.price_micros_cpm
    if offer.deal is not None:
        floor_cpm, auction_type = offer.deal
        floor = price_micros_from_cpm(floor_cpm)
        return Clearing(True, bid if auction_type == 1 else min(floor, bid), floor)
    rival = price_micros_from_cpm(rival_cpm)
    to_beat = max(rival, price_micros_from_cpm(offer.slot.floor_cpm))
    if bid < to_beat or (bid == rival > 0):
        return Clearing(False, rival, to_beat + SECOND_PRICE_STEP)
    price = bid if first_price else min(bid, to_beat + SECOND_PRICE_STEP)
    return Clearing(True, price, to_beat)


def substitute(text: str, request: Request, offer: Offer, price: str, clearing: Clearing, loss: int = 0) -> str:
    """Return a URL or markup with the ${AUCTION_*} macros replaced (OpenRTB 2.6, section 4.4)."""
    return expand(
        text,
        {
            "AUCTION_ID": request.id,
            "AUCTION_BID_ID": offer.bid_id,
            "AUCTION_IMP_ID": offer.slot.imp_id,
            "AUCTION_SEAT_ID": offer.seat,
            "AUCTION_AD_ID": str(offer.bid.get("adid", "")),
            "AUCTION_PRICE": price,
            "AUCTION_CURRENCY": offer.currency,
            "AUCTION_LOSS": str(loss) if loss else "",
            "AUCTION_MIN_TO_WIN": decimal_from_micros(clearing.min_to_win_micros_cpm),
        },
    )


def links(markup: str, path: str) -> list[str]:
    """Return the URLs in a markup that a browser or player would call at one of our endpoints, e.g. "/imp"."""
    plain = html.unescape(markup).replace("\\/", "/")
    return list(dict.fromkeys(url for url in _URL.findall(plain) if f"{path}?" in url))


def conversion_url(landing_url: str, click_url: str) -> str | None:
    """Return the pixel that the advertiser's page calls when its visitor converts.

    The page knows the visitor by the click id that our redirect added to its URL; None where there was none.
    """
    token = parse_qs(urlsplit(landing_url).query).get(CLICK_ID_PARAMETER)
    if not token:
        return None
    pixel = urlsplit(click_url)
    return pixel._replace(path=pixel.path.replace("/click", "/conv"), query=f"t={quote(token[0])}").geturl()
