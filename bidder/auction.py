"""THE HOT PATH: one bid request from its bytes to the answer, one line a stage. It awaits the user's state, where the
store has it not at hand, the model, where that runs for several requests at once, and after each part of its work the
requests that came in the same turn of the loop: see bidder.cohort.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bidder.admission import Admission
from bidder.cohort import Cohort
from bidder.config import BidderConfig
from bidder.enrich import Enricher
from bidder.journal import Journal
from bidder.offer import Candidates, Offer, Reservation, apart, make_offer
from bidder.pending import PendingExposures
from bidder.respond import Responder
from bidder.run import Arrival, Run
from bidder.scoring import Scoring
from bidder.state import Serving, ServingState
from bidder.tally import Tally
from dsp.catalog.reasons import BY_LABEL, Exclusion
from dsp.catalog.user import UserRecord
from dsp.funnel import select
from dsp.kernel import logging
from dsp.kernel.clock import MS_PER_SECOND, Clock, Deadline
from dsp.kernel.errors import InputError
from dsp.kernel.ids import new_id
from dsp.kernel.metrics import Outcome, Stage
from dsp.kernel.money import Micros, cost_micros
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.codec import decode_request, validate
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.request import BidRequest
from dsp.pacing.bids import pace
from dsp.pricing.bid import price
from dsp.pricing.explore import UNMOVED, draw
from dsp.pricing.value import value_by_unit_micros_cpm
from models.features.encode import request_row


class Answer(NamedTuple):
    """What goes back: 200 with a body, 204, or 400."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auctioneer:
    """Holds what an auction needs; keeps no state of its own."""

    config: BidderConfig
    clock: Clock
    serving: Serving
    admission: Admission
    enricher: Enricher
    leases: LeaseBook
    pending: PendingExposures
    responder: Responder
    journal: Journal
    tally: Tally
    scoring: Scoring
    cohort: Cohort = field(default_factory=Cohort)

    async def answer(self, arrival: Arrival) -> Answer:
        """Answer one request; never raises for anything a stranger sends."""
        run = Run(arrival, self.serving.current, self.clock, self.cohort)
        refusal = self.admission.enter(arrival.profile.name, arrival.arrived_ns, self.clock.elapsed_ns())
        try:
            return await self._auction(run) if refusal is None else self._no(run, None, refusal)
        except InputError as fault:
            run.end(Outcome.INVALID, fault.reason)
            return Answer(400)
        except Exception as fault:
            logging.get(__name__).error("auction failed", fault=repr(fault), exc_info=True)
            run.end(Outcome.ERROR, Exclusion.INTERNAL.value)
            return Answer(204)
        finally:
            self.admission.leave()
            self._withdraw(run)
            run.record(self.tally)

    async def _auction(self, run: Run) -> Answer:
        request = decode_request(run.arrival.body, encoding=run.arrival.encoding, bytes_max=self.config.body_bytes_max)
        validate(request)
        run.deadline = self._deadline(run, request)
        await run.mark(Stage.DECODE)
        if run.state is None:
            return self._no(run, request, Exclusion.NOT_READY)
        if self.admission.time_short(run.left_ms()):
            return self._no(run, request, Exclusion.TIME_SHORT)

        opportunities, refused, user = await self.enricher.enrich(request, run.profile, run.now_ms, run.left_ms)
        run.reasons += [label for _, label in refused]
        await run.mark(Stage.ENRICH)
        for opportunity in opportunities:
            reason = await self._choose(run, run.state, apart(opportunity, run.reserved), user)
            run.reasons += [reason.value] if reason is not None else []
        body, offers = b"", list[Offer]()
        if run.reserved:
            body, offers = self.responder.respond(request, run.profile, run.reserved)
            run.reasons += [Exclusion.SELF_CHECK.value] * (len(run.reserved) - len(offers))
            await run.mark(Stage.RESPOND)

        run.late = run.left_ms() < 0.0
        run.sent = [] if run.late else offers
        self.journal.sample(run, request)
        if not run.sent:
            return self._no(run, request, Exclusion.TIME_SHORT if run.late else None)
        self.journal.decision(run, request.id)
        run.end(Outcome.BID)
        return Answer(200, body)

    async def _choose(
        self, run: Run, state: ServingState, opportunity: Opportunity, known: UserRecord | None
    ) -> Exclusion | None:
        """Reserve the best candidate for one impression; where there is none, return why."""
        snapshot, user = state.served.snapshot, self.enricher.seen(opportunity, known, run.now_ms)
        terms = state.controls, run.now_ms, self.config.candidates_max, run.profile.seat
        chosen = select(snapshot, opportunity, user, *terms)
        await run.mark(Stage.FUNNEL)
        if isinstance(chosen, Exclusion):
            return chosen
        rows, features = chosen.line_items, request_row(opportunity, user)
        pctr, pcvr = await self.scoring.predict(run, state, features, chosen.creatives)
        await run.mark(Stage.PREDICT)
        jitter, shading, lot = UNMOVED, None, opportunity.lot
        if opportunity.first_price:
            jitter = draw(lot, self.config.first_price_explore_share)
            shading = state.landscapes.curve(features, opportunity.floor_micros_cpm)
        await run.mark(Stage.PRICE)
        per_mille, per_click, per_conversion, bid_min, bid_max = snapshot.terms_micros.take(rows, 0).T
        value = value_by_unit_micros_cpm(per_mille, per_click, per_conversion, pctr, pcvr)
        floors = chosen.floors_micros_cpm.astype(np.float64)
        ids = snapshot.line_item_ids
        multiplier = pace(value, rows, state.controls, ids, floors, bid_min, lot, run.now_ms)
        prices = price(
            value,
            multiplier,
            floors,
            chosen.first_price,
            shading or self.config.first_price_shade,
            bid_min,
            bid_max,
            chosen.fixed_price,
            jitter.factor,
        )
        candidates = Candidates(chosen, pctr, pcvr, value, multiplier, prices, features, jitter)
        await run.mark(Stage.PRICE)
        fresh = self.enricher.seen(opportunity, known, run.now_ms)
        # Bids for this user that were made meanwhile may have reached caps.
        renewed = fresh is not user and fresh != user
        if renewed and not chosen.has_creatives_of(select(snapshot, opportunity, fresh, *terms)):
            return await self._choose(run, state, opportunity, known)
        reserved = self._reserve(run, state, opportunity, candidates)
        await run.mark(Stage.PRICE)
        return None if reserved else candidates.refusal()

    def _reserve(self, run: Run, state: ServingState, opportunity: Opportunity, candidates: Candidates) -> bool:
        """Set aside the maximum cost of the best candidate that has money; without any there is no bid."""
        bid_id, elapsed_ms = new_id(run.now_ms), run.elapsed_ms()
        days, ledger_ms = state.served.snapshot.days(run.now_ms), self.leases.ledger_ms(elapsed_ms)
        expires_at_ms = max(run.now_ms, ledger_ms) + opportunity.expires_seconds * MS_PER_SECOND

        def take(priced: Candidates, number: int, again: bool) -> Micros | None:
            row = priced.selection.line_items[number]
            day, line_item_id = int(days[row]), state.served.snapshot.line_items[row].id
            cost = 0 if opportunity.test else cost_micros(int(priced.price_micros_cpm[number]))
            lease_id = self.leases.reserve(line_item_id, day, bid_id, cost, elapsed_ms, expires_at_ms, again)
            if lease_id is None:
                return self.leases.payable(line_item_id, day, elapsed_ms)
            reservation = Reservation(bid_id, lease_id, day, cost, run.now_ms, expires_at_ms)
            offer = make_offer(state, opportunity, priced, number, reservation)
            run.reserved.append(offer)
            self.pending.add(offer.facts.user_key, offer.exposure)
            return None

        return candidates.place(take)

    def _withdraw(self, run: Run) -> None:
        """Give back what was reserved for bids that did not leave."""
        for offer in run.withdrawn():
            self.leases.cancel(offer.facts.bid_id)
            self.pending.discard(offer.facts.bid_id)

    def _deadline(self, run: Run, request: BidRequest) -> Deadline:
        tmax_ms = request.tmax if request.tmax > 0 else run.profile.tmax_default_ms
        work_ms = tmax_ms - run.profile.network_margin_ms - self.config.safety_ms
        return Deadline.after_ms(run.arrival.arrived_ns, work_ms)

    def _no(self, run: Run, request: BidRequest | None, reason: Exclusion | None) -> Answer:
        """Answer no: 204, or a body that says why where the exchange reads it. `reason` is of the whole request."""
        run.end(Outcome.NO_BID, reason.value if reason is not None else "")
        if request is None or not run.profile.no_bid_body:
            return Answer(204)
        label = next(iter(run.reasons), Exclusion.NO_CANDIDATE.value)
        return Answer(200, self.responder.no_bid(request.id, BY_LABEL[label].nbr))
