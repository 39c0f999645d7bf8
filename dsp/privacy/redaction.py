"""A request without its user: what may be kept where nothing about the user may be."""

import msgspec

from dsp.openrtb.request import BidRequest, User

_encoder = msgspec.json.Encoder()


def without_user(request: BidRequest) -> bytes:
    """Return a decoded request as JSON, without what identifies or describes the user or the user's device.

    What nothing reads, such as addresses and coordinates, is not in a decoded request. The signals that forbade to keep
    more stay, and so does where the device roughly is, so that the request is judged the same again.
    """
    user, device = request.user, request.device
    if user is not None:
        user = User(geo=user.geo, consent=user.consent)
    if device is not None:
        device = msgspec.structs.replace(device, ifa="")
    return _encoder.encode(msgspec.structs.replace(request, user=user, device=device))
