"""Impressions that may be about to happen: bids without an outcome yet, counted for frequency for a short while."""

from dsp.catalog.user import Exposure, UserRecord

_NOBODY = UserRecord()


class PendingExposures:
    """Exposures by user for bids just sent; bounded in time and number. To forget one loosens a cap for a moment."""

    def __init__(self, ttl_ms: int, count_max: int) -> None:
        self._ttl_ms = ttl_ms
        self._count_max = count_max
        #: bid id to its user; insertion order is age, so that the oldest are forgotten first.
        self._users: dict[str, tuple[str, int]] = {}
        self._exposures: dict[str, dict[str, Exposure]] = {}

    def __len__(self) -> int:
        return len(self._users)

    def add(self, user_key: str, exposure: Exposure) -> None:
        """Count a bid that is about to leave; a user without a key is never counted."""
        if not user_key:
            return
        self._expire(exposure.at_ms)
        self._users[exposure.bid_id] = (user_key, exposure.at_ms)
        self._exposures.setdefault(user_key, {})[exposure.bid_id] = exposure

    def discard(self, bid_id: str) -> None:
        """Forget a bid that was lost, withheld, or counted for good."""
        known = self._users.pop(bid_id, None)
        if known is None:
            return
        of_user = self._exposures[known[0]]
        del of_user[bid_id]
        if not of_user:
            del self._exposures[known[0]]

    def merged(self, user_key: str, user: UserRecord | None, now_ms: int) -> UserRecord | None:
        """Return the user's record with the pending exposures added."""
        of_user = self._exposures.get(user_key)
        if not of_user:
            return user
        fresh = tuple(exposure for exposure in of_user.values() if exposure.at_ms + self._ttl_ms > now_ms)
        if not fresh:
            return user
        known = user or _NOBODY
        return UserRecord(exposures=known.exposures + fresh, segments=known.segments)

    def _expire(self, now_ms: int) -> None:
        while self._users:
            bid_id, (_, at_ms) = next(iter(self._users.items()))
            if at_ms + self._ttl_ms > now_ms and len(self._users) < self._count_max:
                return
            self.discard(bid_id)
