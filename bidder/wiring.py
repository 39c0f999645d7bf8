"""Puts the two sides of a bidder together: the one place where what they share is handed to both."""

import hmac
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from bidder.admission import Admission
from bidder.auction import Auctioneer
from bidder.config import BidderConfig
from bidder.enrich import Enricher
from bidder.journal import Journal
from bidder.notices import NoticeDesk
from bidder.outbox import LaneTuning, Outbox
from bidder.pending import PendingExposures
from bidder.respond import Responder
from bidder.scoring import Scoring
from bidder.spill import Spill
from bidder.state import Serving
from bidder.tally import Tally
from dsp.cache.port import UserStore
from dsp.events.schema import NoticeKind
from dsp.events.topics import Topic
from dsp.kernel.clock import Clock
from dsp.kernel.config import Platform
from dsp.kernel.ids import TokenSigner
from dsp.kernel.keys import hash_key
from dsp.kernel.tracing import Tracer
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.profile import Profile
from dsp.stream.port import EventLog
from models.serving.batcher import Batcher

#: What may wait on disk: records of a known size. A sampled request has any size that its sender chose, and the disk is
#: for what was acknowledged.
_SPILLED = (Topic.NOTICES, Topic.DECISIONS)


class Deployment(NamedTuple):
    """What all bidder processes of one deployment have in common."""

    platform: Platform
    profiles: Mapping[str, Profile]  # by the exchange's name
    keys: Sequence[bytes]  # that sign tokens, the current first

    def secret(self, purpose: bytes) -> bytes:
        """Return a key for one purpose."""
        return hmac.digest(hash_key(self.platform, self.keys), purpose, "sha256")


class Sides(NamedTuple):
    """What answers bid requests, what hears how the bids fared, and their common way to the event log."""

    auctioneer: Auctioneer
    desk: NoticeDesk
    outbox: Outbox


def wire(
    deployment: Deployment,
    config: BidderConfig,
    clock: Clock,
    log: EventLog,
    *,
    serving: Serving,
    leases: LeaseBook,
    users: UserStore,
    batcher: Batcher | None = None,
    spill: EventLog | None = None,
    tracer: Tracer | None = None,
) -> Sides:
    """Return both sides of a bidder process; the caller opens the stores and starts the outbox.

    `spill` keeps on disk what `log` does not take; None where `log` is on that disk itself.
    """
    lanes = _lanes(config)
    spills = {topic: Spill(spill, topic, config.outbox_spill_records_max) for topic in _SPILLED} if spill else {}
    outbox = Outbox(log, lanes, config.outbox_batch_max, clock, spills, config.outbox_append_ms_max)
    profiles, rates = deployment.profiles, deployment.platform.rates
    signer, vendor_id = TokenSigner(deployment.keys, NoticeKind), deployment.platform.privacy_vendor_id
    pending = PendingExposures(config.pending_exposure_ms, config.pending_exposures_max)
    auctioneer = Auctioneer(
        config=config,
        clock=clock,
        serving=serving,
        admission=Admission(
            profiles,
            config.inflight_max,
            config.time_left_ms_min,
            clock.elapsed_ns(),
            partial(outbox.takes, Topic.NOTICES),
        ),
        enricher=Enricher(users, pending, rates, deployment.secret(b"user-key"), vendor_id, config),
        leases=leases,
        pending=pending,
        responder=Responder(config.notice_url, signer, rates),
        journal=Journal(
            outbox, deployment.secret(b"sample-key"), config.request_sample_rate, config.shadow_share, vendor_id
        ),
        tally=Tally(profiles, tracer),
        scoring=Scoring(batcher, config.predict_ms_min, clock, serving.recent),
    )
    desk = NoticeDesk(
        config=config,
        clock=clock,
        signer=signer,
        profiles=profiles,
        serving=serving,
        leases=leases,
        users=users,
        pending=pending,
        outbox=outbox,
    )
    return Sides(auctioneer, desk, outbox)


def _lanes(config: BidderConfig) -> dict[Topic, LaneTuning]:
    decisions = LaneTuning(config.outbox_decisions_max, config.outbox_decisions_flush_ms)
    notices = LaneTuning(config.outbox_notices_max, 0)  # they have gathered before: see bidder.listener
    requests = LaneTuning(config.outbox_requests_max, config.outbox_decisions_flush_ms)
    return {Topic.DECISIONS: decisions, Topic.NOTICES: notices, Topic.REQUESTS: requests}
