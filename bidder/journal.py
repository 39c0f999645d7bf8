"""What the bidder tells the event log of its own accord: decisions, how many bids there were, and a sample of
requests for `explain`.
"""

import asyncio
import zlib
from functools import partial
from hashlib import blake2b

from bidder.counter import BidCounter
from bidder.outbox import Outbox
from bidder.run import Run
from bidder.shadow import scored
from dsp.events.schema import Decision, SampledRequest, encode
from dsp.events.topics import Topic
from dsp.kernel.metrics import Outcome
from dsp.openrtb.request import BidRequest
from dsp.privacy.policy import permissions
from dsp.privacy.redaction import without_user
from models.features.columns import FEATURE_HASH
from models.serving.predictor import BatchPredictor

_HASH_RANGE = 1 << 32
#: zlib and gzip headers are told apart by themselves.
_ANY_HEADER = 47


class Journal:
    """Writes to the outbox without waiting; a full outbox drops and counts.

    Which auctions are sampled and shadowed is decided by a hash of their ids and times under a secret key: whoever
    could tell would send nothing but samples, each of up to a whole body, which are kept for days and tell pacing what
    traffic is. Without the time all would be kept of an exchange that sends one id again and again, or nothing.
    """

    def __init__(
        self, outbox: Outbox, key: bytes, sample_rate: float, shadow_share: float = 0.0, vendor_id: int = 0
    ) -> None:
        self._outbox = outbox
        self._keyed = {one: blake2b(digest_size=4, key=key, person=one) for one in (b"sample", b"shadow")}
        self.counter = BidCounter(outbox)
        self._sampled_below = int(sample_rate * _HASH_RANGE)
        self._shadowed_below = int(shadow_share * _HASH_RANGE)
        self._vendor_id = vendor_id

    def decision(self, run: Run, auction_id: str) -> None:
        """Log the bids that leave; a test is nobody's experience, so nothing is learned from it."""
        bids = tuple(offer.record for offer in run.sent if not offer.opportunity.test)
        if not bids or run.state is None:
            return
        for bid in bids:
            self.counter.count(bid.facts)
        decision = Decision(
            auction_id=auction_id,
            exchange=run.profile.name,
            at_ms=run.now_ms,
            bids=bids,
            snapshot_version=run.state.served.snapshot.version,
            model_version=run.model_version,
            feature_hash=FEATURE_HASH,
        )
        challenger = run.state.challenger
        if challenger is None or self._lot(b"shadow", auction_id, run.now_ms) >= self._shadowed_below:
            self._outbox.offer(Topic.DECISIONS, auction_id, partial(encode, decision))
        else:  # on the loop's next turn the answer has left
            asyncio.get_running_loop().call_soon(self._shadow, decision, challenger)

    def _shadow(self, decision: Decision, challenger: BatchPredictor) -> None:
        self._outbox.offer(Topic.DECISIONS, decision.auction_id, partial(encode, scored(decision, challenger)))

    def _lot(self, purpose: bytes, auction_id: str, at_ms: int) -> int:
        keyed = self._keyed[purpose].copy()
        keyed.update(f"{auction_id}\0{at_ms}".encode())
        return int.from_bytes(keyed.digest(), "big")

    def sample(self, run: Run, request: BidRequest) -> None:
        """Keep the request if its lot falls into the sample: raw where its user may be kept too."""
        auction_id = request.id
        if self._lot(b"sample", auction_id, run.now_ms) >= self._sampled_below or run.state is None:
            return
        if permissions(request, self._vendor_id, run.profile.country_default).may_store:
            body = _plain(run.arrival.body, run.arrival.encoding)
        else:
            body = without_user(request)
        outcome = Outcome.BID.value if run.sent else next(iter(run.reasons), Outcome.NO_BID.value)
        sampled = SampledRequest(
            auction_id=auction_id,
            exchange=run.profile.name,
            at_ms=run.now_ms,
            body=body,
            outcome=outcome,
            snapshot_version=run.state.served.snapshot.version,
        )
        self._outbox.offer(Topic.REQUESTS, auction_id, partial(encode, sampled))


def _plain(body: bytes, encoding: str) -> bytes:
    """Return the body as JSON; it was decoded before, so it is no bomb."""
    if not encoding or encoding == "identity":
        return body
    try:
        return zlib.decompress(body, _ANY_HEADER)
    except zlib.error:
        return zlib.decompress(body, -zlib.MAX_WBITS)
