"""Frequency caps: which line items, campaigns and advertisers a user has seen often enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dsp.catalog.exposures import seen
from dsp.catalog.terms import FrequencyCap
from dsp.kernel.clock import MS_PER_SECOND

#: The caps of the entities of one kind, by id; entities without caps are not in it.
Caps = Mapping[int, Sequence[FrequencyCap]]


@dataclass(frozen=True, slots=True)
class CapBook:
    """Every cap of a catalogue, and the longest of their windows in milliseconds: what is older counts nowhere."""

    line_items: Caps = field(default_factory=dict)
    campaigns: Caps = field(default_factory=dict)
    advertisers: Caps = field(default_factory=dict)
    window_ms_max: int = field(init=False)

    def __post_init__(self) -> None:
        levels = (self.line_items, self.campaigns, self.advertisers)
        windows = [cap.window_seconds for level in levels for caps in level.values() for cap in caps]
        object.__setattr__(self, "window_ms_max", max(windows, default=0) * MS_PER_SECOND)

    def any(self, line_item_id: int, campaign_id: int, advertiser_id: int) -> bool:
        """Return whether a line item has a cap of its own or of a parent."""
        return line_item_id in self.line_items or campaign_id in self.campaigns or advertiser_id in self.advertisers


class Capped(NamedTuple):
    """The ids that must not be shown to the user now."""

    line_items: Sequence[int] = ()
    campaigns: Sequence[int] = ()
    advertisers: Sequence[int] = ()


def reached(seen_ms: Sequence[int], caps: Sequence[FrequencyCap], now_ms: int) -> bool:
    """Return whether impressions at `seen_ms` have used up one of the caps: the last so many are all in its window.

    An impression leaves a window `window_seconds` after it was seen; one dated in the future is inside.
    """
    for cap in caps:
        allowed = cap.impressions
        if len(seen_ms) >= allowed and now_ms - sorted(seen_ms)[-allowed] < cap.window_seconds * MS_PER_SECOND:
            return True
    return False


def capped(exposures: bytes, book: CapBook, now_ms: int) -> Capped:
    """Return what the user has seen often enough, by rows of dsp.catalog.exposures in any order, each bid once.

    Only what the user has seen can be capped, so the cost follows the exposures, not the catalogue. A cap of no
    impressions at all therefore is none; dsp.catalog.validate refuses it.
    """
    line_items: dict[int, list[int]] = {}
    campaigns: dict[int, list[int]] = {}
    advertisers: dict[int, list[int]] = {}
    for at_ms, advertiser_id, campaign_id, line_item_id in seen(exposures):
        if line_item_id in book.line_items:
            line_items.setdefault(line_item_id, []).append(at_ms)
        if campaign_id in book.campaigns:
            campaigns.setdefault(campaign_id, []).append(at_ms)
        if advertiser_id in book.advertisers:
            advertisers.setdefault(advertiser_id, []).append(at_ms)
    return Capped(
        [key for key, seen_ms in line_items.items() if reached(seen_ms, book.line_items[key], now_ms)],
        [key for key, seen_ms in campaigns.items() if reached(seen_ms, book.campaigns[key], now_ms)],
        [key for key, seen_ms in advertisers.items() if reached(seen_ms, book.advertisers[key], now_ms)],
    )
