"""Frequency caps: which line items, campaigns and advertisers a user has seen often enough."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dsp.catalog.terms import FrequencyCap
from dsp.catalog.user import Exposure

_MS_PER_SECOND = 1_000

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
        object.__setattr__(self, "window_ms_max", max(windows, default=0) * _MS_PER_SECOND)

    def any(self, line_item_id: int, campaign_id: int, advertiser_id: int) -> bool:
        """Return whether a line item has a cap of its own or of a parent."""
        return line_item_id in self.line_items or campaign_id in self.campaigns or advertiser_id in self.advertisers


@dataclass(frozen=True, slots=True)
class Capped:
    """The ids that must not be shown to the user now."""

    line_items: Sequence[int] = ()
    campaigns: Sequence[int] = ()
    advertisers: Sequence[int] = ()


def reached(seen_ms: Iterable[int], caps: Sequence[FrequencyCap], now_ms: int) -> bool:
    """Return whether impressions at `seen_ms` have used up one of the caps.

    An impression leaves a window `window_seconds` after it was seen; one dated in the future is inside.
    """
    ages_ms = [now_ms - at_ms for at_ms in seen_ms]
    return any(
        sum(age_ms < cap.window_seconds * _MS_PER_SECOND for age_ms in ages_ms) >= cap.impressions for cap in caps
    )


def capped(exposures: Sequence[Exposure], book: CapBook, now_ms: int) -> Capped:
    """Return what the user has seen often enough; an impression counts once however often it is listed.

    Only what the user has seen can be capped, so the cost follows the exposures, not the catalogue. A cap of no
    impressions at all therefore is none; dsp.catalog.validate refuses it.
    """
    line_items: defaultdict[int, list[int]] = defaultdict(list)
    campaigns: defaultdict[int, list[int]] = defaultdict(list)
    advertisers: defaultdict[int, list[int]] = defaultdict(list)
    for one in {exposure.bid_id: exposure for exposure in exposures}.values():
        if one.line_item_id in book.line_items:
            line_items[one.line_item_id].append(one.at_ms)
        if one.campaign_id in book.campaigns:
            campaigns[one.campaign_id].append(one.at_ms)
        if one.advertiser_id in book.advertisers:
            advertisers[one.advertiser_id].append(one.at_ms)
    return Capped(
        _reached(line_items, book.line_items, now_ms),
        _reached(campaigns, book.campaigns, now_ms),
        _reached(advertisers, book.advertisers, now_ms),
    )


def _reached(seen_ms: Mapping[int, list[int]], caps: Caps, now_ms: int) -> list[int]:
    return [key for key, times_ms in seen_ms.items() if reached(times_ms, caps[key], now_ms)]
