"""What a bid request offers, read away from the bidder: one that was stored, or that a person gives."""

from dsp.kernel.config import Platform
from dsp.openrtb.codec import decode_request, validate
from dsp.openrtb.normalise import Refusal, opportunities
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from dsp.privacy.policy import permissions

#: Users are not looked up here and nothing hangs on what is drawn: pseudonyms and lots need not be the bidder's, whose
#: key is a secret.
_KEY = b"dsp.funnel.offered"


def offered(body: bytes, profile: Profile, platform: Platform, at_ms: int) -> tuple[list[Opportunity], list[Refusal]]:
    """Return the impressions of a raw bid request that came at `at_ms`, and those that are refused.

    Raises:
        InputError: the request is refused as a whole.
    """
    request = decode_request(body)
    validate(request)
    allowed = permissions(request, platform.privacy_vendor_id, profile.country_default)
    return opportunities(request, profile, allowed, platform.rates, _KEY, at_ms)
