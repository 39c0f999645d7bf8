"""From a decoded request to what decisions read: permissions, opportunities, and the user's record."""

from collections.abc import Mapping
from typing import NamedTuple

from bidder.pending import PendingExposures
from dsp.cache.port import UserStore
from dsp.catalog.user import UserRecord
from dsp.kernel import logging
from dsp.kernel.errors import UnavailableError
from dsp.openrtb.normalise import opportunities
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import BidRequest
from dsp.privacy.policy import permissions


class Enriched(NamedTuple):
    """A request's opportunities, the impressions that are none with the label of why, and the user if known."""

    opportunities: list[Opportunity]
    refused: list[tuple[str, str]]
    user: UserRecord | None


class Enricher:
    """Holds what normalising needs beside the request."""

    def __init__(
        self, users: UserStore, pending: PendingExposures, rates: Mapping[str, float], key: bytes, vendor_id: int
    ) -> None:
        self._users = users
        self._pending = pending
        self._rates = rates
        self._key = key
        self._vendor_id = vendor_id
        self._away = False

    async def enrich(self, request: BidRequest, profile: Profile, now_ms: int) -> Enriched:
        """Return what the request offers. One await: the user's state."""
        allowed = permissions(request, self._vendor_id)
        found, refused = opportunities(request, profile, allowed, self._rates, self._key, now_ms)
        user = None
        if found and found[0].user_key and found[0].may_personalise:
            user = await self._user(found[0].user_key)
        return Enriched(found, refused, user)

    def seen(self, opportunity: Opportunity, user: UserRecord | None, now_ms: int) -> UserRecord | None:
        """Return the user's record with the impressions that may be about to happen."""
        if not opportunity.may_personalise:
            return None
        return self._pending.merged(opportunity.user_key, user, now_ms)

    async def _user(self, user_key: str) -> UserRecord | None:
        try:
            user = await self._users.get(user_key)
        except UnavailableError as fault:
            if not self._away:
                logging.get(__name__).warning("user store away, bidding without it", fault=str(fault))
            self._away = True
            return None
        self._away = False
        return user
