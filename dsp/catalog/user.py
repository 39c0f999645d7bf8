"""What is remembered of one pseudonymous user: impressions counted, what he did with them, and the segments known."""

import msgspec


class Exposure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One impression of a user, to be counted; `bid_id` makes counting it twice harmless."""

    bid_id: str
    at_ms: int
    advertiser_id: int
    campaign_id: int
    line_item_id: int


class Response(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a user did with one impression. The times are those at which it was first known here; 0 is not at all."""

    bid_id: str
    advertiser_id: int
    campaign_id: int
    creative_id: int
    category: str = ""  # of the ad, as its token says
    clicked_ms: int = 0
    converted_ms: int = 0

    @property
    def at_ms(self) -> int:
        """Return when the first of it was known."""
        return min(self.clicked_ms or self.converted_ms, self.converted_ms or self.clicked_ms)

    def merged(self, other: "Response") -> "Response":
        """Return what both tell of the same impression, each event at the earliest time given for it."""
        return msgspec.structs.replace(
            self,
            clicked_ms=_earliest(self.clicked_ms, other.clicked_ms),
            converted_ms=_earliest(self.converted_ms, other.converted_ms),
        )


class UserRecord(msgspec.Struct, frozen=True, gc=False):
    """Exposures and responses oldest first, bounded by the store; segments as targeting names them."""

    exposures: bytes = b""  # rows of dsp.catalog.exposures
    segments: tuple[str, ...] = ()
    #: False where nobody can tell whether these are all exposures, so that what has caps must not be shown.
    complete: bool = True
    responses: tuple[Response, ...] = ()


def _earliest(one_ms: int, other_ms: int) -> int:
    """Return the earlier of two times, 0 meaning never."""
    return min(one_ms or other_ms, other_ms or one_ms)
