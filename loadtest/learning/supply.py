"""A day's impressions with the candidates that may bid on them, as arrays, and what only the market knows of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.reasons import Exclusion
from dsp.funnel import Selection, select
from dsp.kernel.clock import MS_PER_DAY
from dsp.openrtb.codec import decode_request
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.profile import Profile, load_profiles
from dsp.pacing.columns import ControlColumns, align
from dsp.privacy.policy import permissions
from dsp.snapshot.build import Snapshot
from loadtest import market
from loadtest.day.traffic import arrivals
from loadtest.exchange import context_of
from loadtest.platform import EXCHANGES, VENDOR_ID
from loadtest.traffic import Request, Slot, Traffic
from models.features.columns import REQUEST_COLUMNS
from models.features.encode import ad_rows, request_row
from models.serving.predictor import Predictions

_BODY_BYTES_MAX = 262_144
_KEY = b"of a simulated day, and no secret"
_RATES = {"USD": 1.0}


class Chance(NamedTuple):
    """One impression up for auction. `deals` are its candidates' ways in, "" for the open auction."""

    at_ms: int
    exchange: str
    auction_id: str
    lot: int
    slot: Slot
    first_price: bool
    context: market.Context  # what rivals and people look at
    deals: tuple[str, ...]
    user_key: str  # "" where nothing may be kept of the person
    personal: bool  # a profile is allowed


@dataclass(frozen=True, slots=True)
class Supply:
    """N impressions in order of time, and their M candidates, impression after impression: those of n from start[n] on.

    Impressions that no line item may bid on are left out. Nothing here depends on predictions, pacing or money.
    """

    snapshot: Snapshot
    chances: list[Chance]
    start: NDArray[np.int64]  # (N + 1,)
    requests: NDArray[np.int64]  # (N, R), of strangers
    ads: NDArray[np.int64]  # (C, A)
    owners: NDArray[np.int64]  # (M,) the candidate's impression
    rows: NDArray[np.int64]  # (M,) its line item, a row of the snapshot
    creatives: NDArray[np.int64]  # (M,) a row of `ads`
    floors: NDArray[np.int64]  # (M,) micros per thousand
    first_price: NDArray[np.bool_]  # (M,)
    fixed_price: NDArray[np.bool_]  # (M,)
    truth: Predictions  # (M,) the hidden response model

    def shown(self) -> Iterator[tuple[int, market.Context, market.Ad]]:
        """Yield of each candidate its impression, and what a person would see there."""
        for number, row, creative in zip(
            self.owners.tolist(), self.rows.tolist(), self.creatives.tolist(), strict=True
        ):
            context = self.chances[number].context
            yield number, context, _ad_shown(self.snapshot, row, creative, context.format)


class _Found(NamedTuple):
    chance: Chance
    features: NDArray[np.int64]
    selection: Selection
    rates: list[tuple[float, float]]


def supply(seed: int, snapshot: Snapshot, begin_ms: int, requests_per_day: int, first: int = 0) -> Supply:
    """Return a day of traffic with its candidates; equal arguments give equal days.

    A seed has its own people. `first` is the number of the seed's requests that came before.
    """
    found = list(_found(seed, snapshot, begin_ms, requests_per_day, first))
    counts = [len(one.rates) for one in found]
    rates = np.array([pair for one in found for pair in one.rates], dtype=np.float64).reshape(-1, 2)

    def column(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, kind), *(getattr(one.selection, name) for one in found)])

    return Supply(
        snapshot=snapshot,
        chances=[one.chance for one in found],
        start=np.cumsum([0, *counts], dtype=np.int64),
        requests=np.array([one.features for one in found], dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS)),
        ads=ad_rows(snapshot),
        owners=np.arange(len(found)).repeat(counts),
        rows=column("line_items", np.int64),
        creatives=column("creatives", np.int64),
        floors=column("floors_micros_cpm", np.int64),
        first_price=column("first_price", np.bool_),
        fixed_price=column("fixed_price", np.bool_),
        truth=Predictions(rates[:, 0].copy(), rates[:, 1].copy()),
    )


def _found(seed: int, snapshot: Snapshot, begin_ms: int, requests_per_day: int, first: int) -> Iterator[_Found]:
    traffic, profiles, controls = Traffic(seed), load_profiles(EXCHANGES), align(None, snapshot.line_item_ids)
    for index, at_ms in enumerate(arrivals(seed, begin_ms, begin_ms + MS_PER_DAY, requests_per_day), first):
        yield from _auctions(traffic.request(index), snapshot, profiles, controls, at_ms)


def _auctions(
    request: Request, snapshot: Snapshot, profiles: Mapping[str, Profile], controls: ControlColumns, at_ms: int
) -> Iterator[_Found]:
    profile, encoding = profiles[request.source.exchange], request.headers.get("Content-Encoding", "")
    read = decode_request(request.body, encoding=encoding, bytes_max=_BODY_BYTES_MAX)
    slots, everything = {slot.imp_id: slot for slot in request.slots}, len(snapshot.line_items)
    allowed = permissions(read, VENDOR_ID, profile.country_default)
    for opportunity in opportunities(read, profile, allowed, _RATES, _KEY, at_ms)[0]:
        chosen = select(snapshot, opportunity, None, controls, at_ms, everything, profile.seat)
        if isinstance(chosen, Exclusion):
            continue
        slot = slots[opportunity.imp_id]
        context = context_of(request, slot)
        deals = tuple("" if deal is None else deal.id for deal in chosen.deals)
        source = request.source
        user_key = opportunity.user_key if opportunity.may_store else ""
        chance = Chance(
            at_ms, source.exchange, request.id, opportunity.lot, slot, source.first_price, context, deals, user_key,
            opportunity.may_personalise,
        )  # fmt: skip
        ads = [
            _ad_shown(snapshot, row, creative, slot.format)
            for row, creative in zip(chosen.line_items.tolist(), chosen.creatives.tolist(), strict=True)
        ]
        rates = [(market.click_probability(context, ad), market.conversion_probability(context, ad)) for ad in ads]
        yield _Found(chance, request_row(opportunity, None), chosen, rates)


def _ad_shown(snapshot: Snapshot, row: int, creative: int, media: str) -> market.Ad:
    """Return a line item's creative as people see it: what bidder.respond tells the exchange of it."""
    shown, advertiser = snapshot.creatives[creative], snapshot.advertisers[row]
    return market.Ad(
        _vertical(tuple(shown.categories or advertiser.categories), advertiser.domain), str(shown.id), media
    )


@lru_cache(maxsize=1_024)
def _vertical(categories: tuple[str, ...], domain: str) -> str:
    return market.vertical(list(categories), domain)
