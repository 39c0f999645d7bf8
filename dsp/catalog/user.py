"""What is remembered of one pseudonymous user: the impressions counted, and the segments known."""

import msgspec


class Exposure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One counted impression of a user; `bid_id` makes counting it twice harmless."""

    bid_id: str
    at_ms: int
    advertiser_id: int
    campaign_id: int
    line_item_id: int


class UserRecord(msgspec.Struct, frozen=True, array_like=True):
    """Exposures oldest first, bounded by the store; segments as targeting names them."""

    exposures: tuple[Exposure, ...] = ()
    segments: tuple[str, ...] = ()
    #: False where nobody can tell whether these are all exposures, so that what has caps must not be shown.
    complete: bool = True
