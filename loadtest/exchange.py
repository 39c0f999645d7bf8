"""The simulated exchange: sends requests on an open-loop schedule, runs the auctions, and sends what follows.

It knows the bidder only over HTTP. Rivals and people come from `market`, the rules from `auction`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from math import sqrt

import msgspec

from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.money import cost_micros, cpm_from_price_micros, decimal_from_micros
from dsp.openrtb.profile import Profile, cipher
from loadtest import auction, market
from loadtest.client import Client
from loadtest.draw import Draw
from loadtest.notifier import Notifier
from loadtest.traffic import Request, Slot, Traffic
from loadtest.truth import NoticeKey, Tally, Truth
from loadtest.uncollected import uncollected

_IN_FLIGHT_MAX = 1_000


class Exchange:
    """Drives one bidder with one stream of traffic; `profiles` say what each exchange has agreed with it."""

    def __init__(
        self,
        client: Client,
        bid_url: str,
        traffic: Traffic,
        profiles: Mapping[str, Profile],
        truth: Truth,
        notifier: Notifier,
        seconds: Callable[[], float] = time.perf_counter,
        in_flight_max: int = _IN_FLIGHT_MAX,
    ) -> None:
        """Prepare to drive; `seconds` reads the time, because the loop's own clock moves in whole milliseconds.

        What is due while `in_flight_max` are unanswered is not sent, and counted: a machine that cannot keep up would
        fall ever further behind, and every answer be late.
        """
        self._client = client
        self._bid_url = bid_url.rstrip("/")
        self._traffic = traffic
        self._billing = {name: profile.billing for name, profile in profiles.items()}
        self._ciphers = {name: cipher(profile) for name, profile in profiles.items()}
        self._truth = truth
        self._notifier = notifier
        self._seconds = seconds
        self._in_flight_max = in_flight_max
        self._next = 0

    async def drive(self, rate_per_second: float, until: Callable[[float], bool], ramp_seconds: float = 0.0) -> None:
        """Send requests at this rate until `until(seconds since the start)` holds, then wait for their answers.

        The schedule is open-loop: a slow answer does not hold back the next request. Over the first `ramp_seconds`
        the rate rises evenly to its height, as exchanges do it with a bidder that has just started.
        """
        with uncollected():
            await self._drive(rate_per_second, until, ramp_seconds)

    async def _drive(self, rate_per_second: float, until: Callable[[float], bool], ramp_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start = self._seconds()
        flying: set[asyncio.Task[None]] = set()
        try:
            count = 0
            while not until(self._seconds() - start):
                tally = self._truth.tally
                due = start + due_seconds(count, rate_per_second, ramp_seconds)
                now = self._seconds()
                if due > now:
                    await asyncio.sleep(due - now)
                tally.lag_ms_max = max(tally.lag_ms_max, (self._seconds() - due) * MS_PER_SECOND)
                count += 1
                self._notifier.check()
                if len(flying) >= self._in_flight_max:
                    tally.unsent += 1
                    await asyncio.sleep(0)
                    continue
                task = loop.create_task(self.serve(self._traffic.request(self._next)))
                flying.add(task)
                task.add_done_callback(flying.discard)
                self._next += 1
            await asyncio.gather(*flying)
        finally:
            for task in flying:
                task.cancel()

    async def serve(self, request: Request) -> None:
        """Send one request, run its auctions, and begin to send what follows."""
        tally = self._truth.tally
        tally.requests += 1
        at = self._seconds()
        url = f"{self._bid_url}/openrtb2/{request.source.exchange}"
        try:
            answer = await self._client.post(url, request.body, request.headers)
        except OSError as fault:
            self._truth.failed(tally, at, fault)
            return
        latency_ms = (self._seconds() - at) * MS_PER_SECOND
        self._truth.answered(tally, at, latency_ms, answer.status)
        late = latency_ms > request.source.tmax_ms
        tally.late += late
        if answer.status == 200:
            self._auction(request, answer.body, tally, late=late)

    def _auction(self, request: Request, body: bytes, tally: Tally, *, late: bool) -> None:
        try:
            response = msgspec.json.decode(body)
        except msgspec.DecodeError:
            tally.faults["not_json"] += 1
            return
        offers, faults = auction.read(response, request)
        tally.faults.update(faults)
        if late:  # the auction is over without it
            for offer in offers:
                expired = auction.clear(offer, 0.0, first_price=False)
                self._notifier.spawn(self._lost(request, offer, expired, auction.LOSS_EXPIRED))
            return
        tally.responses += bool(offers)
        tally.bids += len(offers)
        for offer in auction.best(offers).values():
            context = context_of(request, offer.slot)
            rival = market.rival_cpm(self._traffic.seed, request.id, offer.slot.imp_id, context)
            clearing = auction.clear(offer, rival, first_price=request.source.first_price)
            if clearing.won:
                tally.wins += 1
                self._notifier.spawn(self._won(request, offer, clearing, context, tally))
            else:
                self._notifier.spawn(self._lost(request, offer, clearing, auction.LOSS_OUTBID))

    async def _lost(self, request: Request, offer: auction.Offer, clearing: auction.Clearing, reason: int) -> None:
        url = offer.bid.get("lurl")
        if url:
            price = decimal_from_micros(clearing.price_micros_cpm)
            url = auction.substitute(url, request, offer, price, clearing, reason)
            await self._notifier.send(_key(request, offer, "loss"), url)

    async def _won(
        self,
        request: Request,
        offer: auction.Offer,
        clearing: auction.Clearing,
        context: market.Context,
        tally: Tally,
    ) -> None:
        name, manners = request.source.exchange, self._notifier.manners
        billing = self._billing[name]
        draw = Draw("response", self._traffic.seed, request.id, offer.slot.imp_id)
        vector = blake2b(f"{request.id}|{offer.slot.imp_id}".encode(), digest_size=16).digest()
        price = self._ciphers[name].encrypt(cpm_from_price_micros(clearing.price_micros_cpm), vector)
        cost = cost_micros(clearing.price_micros_cpm)

        async def notify(kind: str, url: str | None) -> str | None:
            if not url:
                return None
            url = auction.substitute(url, request, offer, price, clearing)
            return await self._notifier.send(_key(request, offer, kind), url, cost if billing == kind else 0)

        await notify("win", offer.bid.get("nurl"))
        if not draw.chance(manners.render_share):
            return
        await asyncio.sleep(draw.between(*manners.render_delay_seconds))
        await notify("bill", offer.bid.get("burl"))
        tally.impressions += 1
        markup = offer.bid["adm"]
        for url in auction.links(markup, "/imp"):
            await notify("imp", url)
        ad = _ad(offer)
        if not draw.chance(market.click_probability(context, ad)):
            return
        await asyncio.sleep(draw.between(*manners.click_delay_seconds))
        tally.clicks += 1
        click_url = next(iter(auction.links(markup, "/click")), "")
        landing = await notify("click", click_url)
        if landing is None or not draw.chance(market.conversion_probability(context, ad)):
            return
        await asyncio.sleep(draw.between(*manners.conversion_delay_seconds))
        tally.conversions += 1
        await notify("conv", auction.conversion_url(landing, click_url))


def _key(request: Request, offer: auction.Offer, kind: str) -> NoticeKey:
    return NoticeKey(request.source.exchange, request.id, offer.slot.imp_id, kind)


def due_seconds(number: int, rate_per_second: float, ramp_seconds: float) -> float:
    """Return when request `number` is due, seconds after the start, if the rate rises evenly over the ramp."""
    ramped = rate_per_second * ramp_seconds / 2
    if number >= ramped:
        return ramp_seconds + (number - ramped) / rate_per_second
    return sqrt(2 * ramp_seconds * number / rate_per_second)


def context_of(request: Request, slot: Slot) -> market.Context:
    """Return what the hidden models see of one impression."""
    place = request.property
    return market.Context(
        format=slot.format,
        size=slot.size,
        position=slot.position,
        user=request.user,
        category=place.category,
        worth=place.worth,
        lift=place.lift,
    )


def _ad(offer: auction.Offer) -> market.Ad:
    bid = offer.bid
    domain, name = next(iter(bid["adomain"])), str(bid.get("adid") or bid["crid"])
    return market.Ad(market.vertical(bid.get("cat") or [], domain), name, offer.slot.format)
