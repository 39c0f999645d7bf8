"""Impressions that may be about to happen: bids without an outcome yet, counted for frequency for a while."""

import msgspec

from dsp.catalog.exposures import followed, row_of
from dsp.catalog.user import Exposure, UserRecord
from dsp.events.schema import Notice, NoticeKind
from dsp.frequency.evidence import exposure_at, exposure_of
from dsp.kernel import metrics

_NOBODY = UserRecord()
#: More than anybody waits for. Each request of a user looks at all of his, and one id may stand for everybody: some
#: exchanges send the same for all whom they do not know.
USER_COUNT_MAX = 256


class _Pending(msgspec.Struct, gc=False):
    """An exposure and its end; it is packed when its user is seen again, and most are not before it is settled."""

    exposure: Exposure
    until_ms: int
    packed: bytes = b""

    def row(self) -> bytes:
        self.packed = self.packed or row_of(self.exposure)
        return self.packed


class PendingExposures:
    """Exposures by user: a bid's for `ttl_ms`, a won bid's until it expires. At most `count_max` of each kind, and
    USER_COUNT_MAX of a user; beyond it the oldest are forgotten, which is counted and loosens a cap for a moment.
    """

    def __init__(self, ttl_ms: int, count_max: int) -> None:
        self._ttl_ms = ttl_ms
        self._count_max = count_max
        #: Bid id to its user and its end; insertion order is age, so that the oldest are forgotten first.
        self._bids: dict[str, tuple[str, int]] = {}
        self._wins: dict[str, tuple[str, int]] = {}
        #: By user and bid id.
        self._exposures: dict[str, dict[str, _Pending]] = {}
        self._forgotten = metrics.EXPOSURES_FORGOTTEN.labels("pending")

    def __len__(self) -> int:
        return len(self._bids) + len(self._wins)

    def add(self, user_key: str, exposure: Exposure) -> None:
        """Count a bid that is about to leave; a user without a key is never counted."""
        if user_key:
            self._enter(self._bids, user_key, exposure, exposure.at_ms + self._ttl_ms, exposure.at_ms)

    def hear(self, notice: Notice, now_ms: int) -> None:
        """Count a bid that has won until it expires, whichever process made it; forget one that was lost or counted."""
        facts = notice.facts
        if notice.kind is NoticeKind.LOSS or exposure_of(notice) is not None:
            self.discard(facts.bid_id)
        elif notice.kind is NoticeKind.WIN and facts.user_key and facts.expires_at_ms > now_ms:
            self.discard(facts.bid_id)
            exposure = exposure_at(facts, facts.bid_at_ms)
            self._enter(self._wins, facts.user_key, exposure, facts.expires_at_ms, now_ms)

    def discard(self, bid_id: str) -> None:
        """Forget a bid that was lost, withheld, or counted for good."""
        known = self._bids.pop(bid_id, None) or self._wins.pop(bid_id, None)
        if known is None:
            return
        of_user = self._exposures[known[0]]
        del of_user[bid_id]
        if not of_user:
            del self._exposures[known[0]]

    def merged(self, user_key: str, user: UserRecord | None, now_ms: int) -> UserRecord | None:
        """Return the user's record with the pending exposures added that it has not counted yet."""
        of_user = self._exposures.get(user_key)
        if not of_user:
            return user
        known = user or _NOBODY
        exposures = followed(known.exposures, [one.row() for one in of_user.values() if one.until_ms > now_ms])
        if exposures is known.exposures:
            return user
        return UserRecord(exposures, known.segments, known.complete, known.responses)

    def _enter(
        self, bids: dict[str, tuple[str, int]], user_key: str, exposure: Exposure, until_ms: int, now_ms: int
    ) -> None:
        while bids:
            bid_id, (_, ends_ms) = next(iter(bids.items()))
            if ends_ms > now_ms:
                if len(bids) < self._count_max:
                    break
                self._forgotten.inc()
            self.discard(bid_id)
        bids[exposure.bid_id] = user_key, until_ms
        of_user = self._exposures.setdefault(user_key, {})
        of_user[exposure.bid_id] = _Pending(exposure, until_ms)
        if len(of_user) > USER_COUNT_MAX:
            self._forgotten.inc()
            self.discard(next(iter(of_user)))
