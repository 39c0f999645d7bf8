"""From a decoded request to what decisions read: permissions, opportunities, and the user's record."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bidder.config import BidderConfig
from bidder.patience import at_most
from bidder.pending import PendingExposures
from dsp.cache.port import UserStore
from dsp.catalog.user import UserRecord
from dsp.kernel import metrics
from dsp.kernel.errors import UnavailableError
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import BidRequest
from dsp.privacy.policy import permissions

#: Of a user whose exposures cannot be told, where line items with caps must not bid then.
_UNTOLD = UserRecord(complete=False)


class Enriched(NamedTuple):
    """A request's opportunities, the impressions that are none with the label of why, and the user if known."""

    opportunities: list[Opportunity]
    refused: list[tuple[str, str]]
    user: UserRecord | None


class Enricher:
    """Holds what normalising needs beside the request."""

    def __init__(
        self,
        users: UserStore,
        pending: PendingExposures,
        rates: Mapping[str, float],
        key: bytes,
        vendor_id: int,
        config: BidderConfig,
    ) -> None:
        self._users = users
        self._pending = pending
        self._rates = rates
        self._key = key
        self._vendor_id = vendor_id
        self._timeout_ms = config.user_timeout_ms
        self._absent = _missing(config.user_absent_policy)
        self._unidentified = _missing(config.user_unidentified_policy)

    async def enrich(
        self, request: BidRequest, profile: Profile, now_ms: int, left_ms: Callable[[], float]
    ) -> Enriched:
        """Return what the request offers. One await: the user's state, and none where the store has it at hand.

        Exposures may be read where they may be kept; what else they may be used for, whoever reads the record decides.
        """
        allowed = permissions(request, self._vendor_id, profile.country_default)
        found, refused = opportunities(request, profile, allowed, self._rates, self._key, now_ms)
        if not found or not found[0].user_key or not allowed.may_store:
            return Enriched(found, refused, None)
        try:
            user = self._users.get(found[0].user_key)
            if user is not None and not isinstance(user, UserRecord):
                user = await at_most(min(self._timeout_ms, left_ms() / 2), user)
        except TimeoutError:
            metrics.USER_FAULTS.labels("get", "timeout").inc()
            user = self._absent
        except UnavailableError:
            metrics.USER_FAULTS.labels("get", "unavailable").inc()
            user = self._absent
        return Enriched(found, refused, user)

    def seen(self, opportunity: Opportunity, user: UserRecord | None, now_ms: int) -> UserRecord | None:
        """Return the user's record with the impressions that may be about to happen."""
        if not opportunity.user_key or not opportunity.may_store:
            return self._unidentified
        return self._pending.merged(opportunity.user_key, user, now_ms)


def _missing(policy: str) -> UserRecord | None:
    """Return what stands for a record that is missing."""
    return _UNTOLD if policy == "no_bid_capped" else None
