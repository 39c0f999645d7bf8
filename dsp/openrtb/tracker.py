"""Third parties' measurement of an ad: what each is told of, and how. Which formats have what is in dsp.catalog."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class TrackerEvent(StrEnum):
    """What a tracker is told of."""

    IMPRESSION = "impression"
    VIEWABLE = "viewable"
    CLICK = "click"
    START = "start"
    FIRST_QUARTILE = "first_quartile"
    MIDPOINT = "midpoint"
    THIRD_QUARTILE = "third_quartile"
    COMPLETE = "complete"


class TrackerMethod(StrEnum):
    """How: an image is loaded, a script, or a script in the sandbox of Open Measurement (OMID)."""

    IMAGE = "image"
    SCRIPT = "script"
    OMID = "omid"


class Tracker(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """An address to load on an event. `vendor` and `parameters` are of OMID, whose scripts get them."""

    event: TrackerEvent
    method: TrackerMethod = TrackerMethod.IMAGE
    url: str
    vendor: str | None = None
    parameters: str | None = None


def images(trackers: Sequence[Tracker], event: TrackerEvent) -> list[str]:
    """Return the addresses of the images to load on an event."""
    return [one.url for one in trackers if one.event is event and one.method is TrackerMethod.IMAGE]
