"""From a decoded request to opportunities: one normalised value for each impression that can be bid on.

What all impressions of a request share is worked out once. Reasons are labels of `dsp.catalog.reasons.Exclusion`.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from math import ceil, isfinite
from typing import NamedTuple

import msgspec

from dsp.kernel.money import MICROS_PER_UNIT, PRICE_MICROS_CPM_MAX, Micros
from dsp.kernel.remember import Remembered
from dsp.openrtb import slot
from dsp.openrtb.categories import taxonomy
from dsp.openrtb.device import Agent, describe, is_crawler
from dsp.openrtb.geo import Place, place
from dsp.openrtb.names import NONE, codes, domain, domains, language, lower, store_id
from dsp.openrtb.opportunity import DealOffer, DurationFloors, Opportunity, Permissions
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import BidRequest, Deal, Device, Imp, Inventory, Text, Transparency, User, Video

TMAX_MS_MAX = 10_000
_ANONYMOUS_IFA = frozenset({"", "00000000-0000-0000-0000-000000000000"})

#: (impression id, label of the reason)
Refusal = tuple[str, str]


def opportunities(
    request: BidRequest,
    profile: Profile,
    permissions: Permissions,
    rates: Mapping[str, float],
    key: bytes,
    now_ms: int,
) -> tuple[list[Opportunity], list[Refusal]]:
    """Normalise every impression of a validated request.

    Args:
        request: decoded and validated by `dsp.openrtb.codec`.
        profile: the exchange's.
        permissions: what privacy signals allow, from `dsp.privacy.policy`.
        rates: units of the book's currency per unit of each currency known.
        key: of the keyed hashes that make user identifiers pseudonymous and lots secret.
        now_ms: the request's arrival.

    Returns:
        The opportunities, and for every other impression its id and the reason why it is none.
    """
    currency = _currency(request, profile, rates)
    label = _refusal(request, profile, permissions, currency)
    if label:
        return [], [(imp.id, label) for imp in request.imp]
    shared = _shared(request, profile, permissions, key)
    lots = _keyed(key, 8, b"lot")
    auction = _Auction(profile, lots, now_ms, _auction_type(request, profile), currency, rates)
    counts = Counter([imp.id for imp in request.imp]) if len(request.imp) > 1 else None
    found: list[Opportunity] = []
    refused: list[Refusal] = []
    for position, imp in enumerate(request.imp):
        if position >= profile.impressions_max:
            refused.append((imp.id, "impression_bound"))
        elif counts is not None and counts[imp.id] > 1:
            refused.append((imp.id, "impression_ambiguous"))
        else:
            outcome = _opportunity(request, imp, auction, shared)
            if isinstance(outcome, str):
                refused.append((imp.id, outcome))
            else:
                found.append(outcome)
    return found, refused


def _refusal(request: BidRequest, profile: Profile, permissions: Permissions, currency: str) -> str:
    """Return why no impression of the request can be bid on, or ""."""
    if not permissions.may_bid:
        return "privacy_forbids"
    allowed, blocked = request.wseat, request.bseat
    if (allowed and profile.seat not in map(str, allowed)) or (blocked and profile.seat in map(str, blocked)):
        return "seat_not_allowed"
    if not currency:
        return "currency_unsupported"
    demanded = disclosure(request)
    if demanded is not None and demanded.dsarequired > 1 and demanded.pubrender == 0:
        return "disclosure_unshown"
    if is_crawler(request.device):
        return "crawler"
    if profile.supply_chain_required:
        chain = request.source.schain if request.source is not None else None
        if chain is None or chain.complete != 1:
            return "supply_chain_incomplete"
    return ""


def _currency(request: BidRequest, profile: Profile, rates: Mapping[str, float]) -> str:
    """Return the currency to quote in: the exchange's default if the request takes it, else the first we know."""
    accepted = (_accepted[request.cur] if request.cur else ()) or profile.currencies
    for code in profile.currencies:
        if code in accepted and code in rates:
            return code
    for code in accepted:
        if code in rates:
            return code
    return ""


def _upper(codes: tuple[Text, ...]) -> tuple[str, ...]:
    return tuple([code for code in [str(code).strip().upper() for code in codes] if code])


_accepted = Remembered(_upper)


class _Shared(msgspec.Struct, frozen=True, gc=False):
    """Fields of `Opportunity` that all impressions of a request share, in its order and by group."""

    inventory: "_Inventory"
    agent: Agent
    language: str
    connection: int
    place: Place
    user_key: str
    segments: frozenset[str]
    may_store: bool
    may_personalise: bool
    blocked_advertisers: frozenset[str]
    blocked_apps: frozenset[str]
    languages_allowed: frozenset[str]
    disclosure: int


class _Auction(msgspec.Struct, frozen=True, gc=False):
    """What an impression is read with beside the request."""

    profile: Profile
    lots: blake2b
    now_ms: int
    kind: int
    currency: str
    rates: Mapping[str, float]


def _shared(request: BidRequest, profile: Profile, permissions: Permissions, key: bytes) -> _Shared:
    device, user, spoken = request.device, request.user, request.wlang or request.wlangb
    identified, demanded = permissions.may_store or permissions.may_personalise, disclosure(request)
    return _Shared(
        _inventory(request),
        describe(device),
        language(device.language or device.langb) if device else "",
        max(device.connectiontype, 0) if device else 0,
        place(device.geo if device else None, user.geo if user else None, profile.country_default),
        user_key(user, device, profile.name, key) if identified else "",
        _segments(user) if user and permissions.may_personalise else NONE,
        permissions.may_store,
        permissions.may_personalise,
        domains(request.badv),
        lower(request.bapp),
        frozenset([language(str(code)) for code in spoken]) if spoken else NONE,
        0 if demanded is None else 2 if demanded.datatopub > 0 else 1,
    )


def _auction_type(request: BidRequest, profile: Profile) -> int:
    """Return `at`. Types of an exchange's own (500 and up) are bid on as first-price auctions."""
    return request.at if request.at is not None and request.at > 0 else profile.auction_default


def _opportunity(request: BidRequest, imp: Imp, auction: _Auction, shared: _Shared) -> Opportunity | str:
    """Return the opportunity, or the label of why the impression is none."""
    profile, kind, currency, rates = auction.profile, auction.kind, auction.currency, auction.rates
    offer = slot.read(imp, request.device)
    if not offer.formats:
        return "format_unsupported"
    if imp.qty is not None and imp.qty.multiplier != 1.0:
        return "quantity_unsupported"  # reservations, bills and caps are of one impression each
    floor = _floor(imp.bidfloor, imp.bidfloorcur, rates)
    if isinstance(floor, str):
        return floor
    player = imp.video if imp.video is not None and slot.plays(imp.video) else imp.audio
    lasting = _duration_floors(player, imp.bidfloorcur, rates) if player is not None and offer.video else None
    if isinstance(lasting, str):
        return lasting
    pmp = imp.pmp
    return Opportunity(
        request.id,
        imp.id,
        profile.name,
        auction.now_ms,
        auction.lots,
        request.test == 1,
        kind != 2,
        min(request.tmax, TMAX_MS_MAX) if request.tmax > 0 else profile.tmax_default_ms,
        *offer,
        imp.instl == 1,
        imp.rwdd == 1,
        imp.secure == 1,
        floor,
        imp.tagid.lower(),
        _deals(pmp.deals, kind, profile, rates) if pmp is not None else (),
        pmp is not None and pmp.private_auction == 1,
        *shared.inventory,
        *shared.agent,
        shared.language,
        shared.connection,
        *shared.place,
        shared.user_key,
        shared.segments,
        shared.may_store,
        shared.may_personalise,
        codes(request.bcat + imp.bcat if imp.bcat else request.bcat),
        shared.blocked_advertisers,
        shared.blocked_apps,
        shared.languages_allowed,
        currency,
        rates[currency],
        codes(request.acat),
        taxonomy(request.cattax),
        shared.disclosure,
        lasting,
        frozenset(imp.banner.btype if imp.banner is not None else ()),
        max(profile.notice_ttl_seconds, min(imp.exp, profile.notice_ttl_seconds_max)),
        str(player.podid).lower() if player is not None else "",
    )


@lru_cache(maxsize=8)
def _keyed(key: bytes, size: int, purpose: bytes = b"") -> blake2b:
    """Return the hash that pseudonyms and lots begin with, which takes longer to make than to copy."""
    return blake2b(digest_size=size, key=key[:64], person=purpose)


def disclosure(request: BidRequest) -> Transparency | None:
    """Return what the Digital Services Act demands of bids; None where it demands nothing."""
    ext = request.regs.ext if request.regs is not None else None
    return ext.dsa if ext is not None and ext.dsa is not None and ext.dsa.dsarequired > 0 else None


def _floor(price: float, currency: str, rates: Mapping[str, float]) -> Micros | str:
    """Return a floor in the book's currency, rounded up, or the label of why it is none."""
    if price == 0:
        return 0
    if not isfinite(price) or price < 0:
        return "floor_absurd"
    rate = rates.get(currency.strip().upper() or "USD")
    if rate is None:
        return "currency_unsupported"
    micros = price * rate * MICROS_PER_UNIT
    # The tolerance keeps 0.1 + 0.2 from costing a micro more than 0.3.
    return "floor_absurd" if micros > PRICE_MICROS_CPM_MAX else ceil(micros - 1e-3)


def _duration_floors(terms: Video | Deal, currency: str, rates: Mapping[str, float]) -> DurationFloors | str | None:
    """Return the floors by duration as `_floor` does, None where there are none."""
    if not terms.durfloors and not terms.mincpmpersec:
        return None
    second = _floor(terms.mincpmpersec, currency, rates)
    bands = []
    for band in terms.durfloors:
        floor = _floor(band.bidfloor, currency, rates)
        if isinstance(floor, str):
            return floor
        bands.append((band.mindur, band.maxdur, floor))
    return second if isinstance(second, str) else DurationFloors(second, tuple(bands))


def _deals(deals: list[Deal], auction: int, profile: Profile, rates: Mapping[str, float]) -> tuple[DealOffer, ...]:
    """Return the deals that our seat may bid on and whose floor is a price we can convert."""
    offers = []
    for deal in deals:
        seats = frozenset(map(str, deal.wseat))
        floor = _floor(deal.bidfloor, deal.bidfloorcur, rates)
        lasting = _duration_floors(deal, deal.bidfloorcur, rates)
        if not deal.id or isinstance(floor, str) or isinstance(lasting, str) or (seats and profile.seat not in seats):
            continue
        offers.append(
            DealOffer(
                id=deal.id,
                floor_micros_cpm=floor,
                auction=deal.at if deal.at is not None and deal.at > 0 else auction,
                seats=seats,
                advertiser_domains=domains(deal.wadomain),
                duration_floors=lasting,
            )
        )
    return tuple(offers)


class _Inventory(NamedTuple):
    """The fields of `Opportunity` that describe the inventory, in its order."""

    inventory: str
    domain: str
    bundle: str
    publisher: str
    categories: frozenset[str]
    content_language: str


def _inventory(request: BidRequest) -> _Inventory:
    if request.site is not None:
        kind, inventory = "site", request.site
    elif request.app is not None:
        kind, inventory = "app", request.app
    elif request.dooh is not None:
        kind, inventory = "dooh", request.dooh
    else:
        kind, inventory = "", Inventory()
    publisher, content = inventory.publisher, inventory.content
    # Codes of products or of audiences are none of what the content is about, though numbers too.
    stated = inventory.cat + inventory.sectioncat + inventory.pagecat if taxonomy(inventory.cattax) else ()
    if content is not None and taxonomy(content.cattax):
        stated += content.cat
    return _inventories[
        kind,
        domain(inventory.domain or inventory.page),  # pages differ far more than sites do
        _bundle(inventory) if kind == "app" else "",
        publisher.id if publisher is not None else "",
        stated,
        (content.language or content.langb) if content is not None else "",
    ]


def _named(stated: tuple[str, str, str, str, tuple[Text, ...], str]) -> _Inventory:
    kind, host, bundle, publisher, categories, spoken = stated
    return _Inventory(kind, host, bundle, publisher.lower(), codes(categories), language(spoken))


_inventories = Remembered(_named)


def _bundle(app: Inventory) -> str:
    """Return the app's store id, read out of its store's address where it is not given."""
    if app.bundle:
        return app.bundle.strip().lower()
    return store_id((app.storeurl or app.url).lower())


def user_key(user: User | None, device: Device | None, exchange: str, key: bytes) -> str:
    """Return a pseudonym for the user, "" if the request identifies none.

    Our own identifier comes first, then the device's, then a shared one; all three are the same on every exchange.
    An exchange's own identifier means something only there, so the exchange is part of what is hashed.
    """
    identity = ""
    if user is not None and user.buyeruid:
        identity = f"buyer|{user.buyeruid}"
    elif device is not None and device.lmt != 1 and device.ifa.lower() not in _ANONYMOUS_IFA:
        identity = f"ifa|{device.ifa.lower()}"
    elif user is not None:
        shared = next((f"{eid.source}|{eid.uids[0].id}" for eid in user.eids if eid.uids and eid.uids[0].id), "")
        if shared:
            identity = f"eid|{shared}"
        elif user.id:
            identity = f"user|{exchange}|{user.id}"
    if not identity:
        return ""
    keyed = _keyed(key, 16).copy()
    keyed.update(identity.encode())
    return keyed.hexdigest()


def _segments(user: User) -> frozenset[str]:
    if not user.data:
        return NONE
    return frozenset([segment.id.lower() for data in user.data for segment in data.segment if segment.id])
