"""Compiles a catalogue to the one immutable artefact that every decision reads. Pure; encoding is codec.py's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, ConversionRule, Creative, LineItem
from dsp.catalog.exposures import ID_MAX
from dsp.catalog.terms import FrequencyCap
from dsp.frequency.rule import CapBook
from dsp.kernel.clock import knows_timezone
from dsp.kernel.money import PRICE_MICROS_CPM_MAX, Micros
from dsp.pricing.value import GOAL_CODES, conversion_worths, unit_micros, unit_prices, value_micros_cpm
from dsp.targeting.index import Entities, Index
from dsp.targeting.tiers import Ranking

#: What is assumed of response rates to rank line items before they are scored; only their order matters.
PRIOR_CTR = 0.002
PRIOR_CVR = 0.02

_FOREVER_MS = 2**62
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """N line items and C creatives as rows and columns. Never write to an array of it.

    `line_items`, `campaigns` and `advertisers` are aligned, one entry a row; creatives are sorted by their line item's
    row, and those of row i are `creatives[creative_start[i]:creative_start[i + 1]]`. Archived parents leave orphans:
    line items that can never bid, of which only the ids are kept.
    """

    version: str
    built_at_ms: int
    line_items: Sequence[LineItem]
    campaigns: Sequence[Campaign]
    advertisers: Sequence[Advertiser]
    creatives: Sequence[Creative]
    orphan_ids: tuple[int, ...]
    conversion_rules: tuple[ConversionRule, ...]
    # Columns over line items, shape (N,)
    line_item_ids: NDArray[np.int64]  # ascending
    campaign_id: NDArray[np.int64]
    advertiser_id: NDArray[np.int64]
    goal_kind: NDArray[np.int8]  # pricing.value.GOAL_CODES
    target_micros: NDArray[np.int64]  # what the goal's unit may cost; of ROAS, a conversion
    bid_min_micros_cpm: NDArray[np.int64]
    bid_max_micros_cpm: NDArray[np.int64]
    #: (N, 5), a line item's beside each other, for auctions: pricing.value.UnitPrices, its lowest and its highest bid.
    terms_micros: NDArray[np.float64]
    has_caps: NDArray[np.bool_]  # of its own, its campaign's or its advertiser's
    # Columns over creatives, shape (C,), and where each line item's begin, shape (N + 1,)
    creative_ids: NDArray[np.int64]
    creative_line_items: NDArray[np.int64]
    creative_start: NDArray[np.int64]
    creative_lots: NDArray[np.uint64]  # what a creative draws lots with when several fit
    index: Index
    ranking: Ranking  # by the value at PRIOR_CTR and PRIOR_CVR times the multipliers of the moment
    caps: CapBook

    def row_of(self, line_item_id: int) -> int | None:
        """Return a line item's row; None where it has none."""
        row = int(np.searchsorted(self.line_item_ids, line_item_id))
        there = row < self.line_item_ids.shape[0] and self.line_item_ids[row] == line_item_id
        return row if there else None

    def days(self, now_ms: int) -> NDArray[np.int64]:
        """Return each line item's day in its advertiser's time zone, as days since 1970-01-01; int64 (N,)."""
        return self.index.calendar.days(now_ms)

    def with_active(self, active: NDArray[np.bool_]) -> "Snapshot":
        """Return the snapshot with other line items active, bool (N,); what its entities say of it stays as it was."""
        return replace(self, index=self.index.with_active(active))


def build(catalogue: Catalogue, version: str, built_at_ms: int) -> Snapshot:
    """Compile a catalogue. Equal catalogues give equal snapshots, whatever order their entities come in."""
    worths = conversion_worths(catalogue.conversion_rules)
    chains, orphan_ids = _chains(catalogue, worths)
    items = tuple(item for item, _, _ in chains)
    campaigns = tuple(campaign for _, campaign, _ in chains)
    advertisers = tuple(advertiser for _, _, advertiser in chains)
    row_of = {item.id: row for row, item in enumerate(items)}
    owned = [one for one in catalogue.creatives if one.line_item_id in row_of]
    order = np.lexsort((_column(one.id for one in owned), _column(row_of[one.line_item_id] for one in owned)))
    creatives = tuple([owned[number] for number in order.tolist()])
    creative_rows = [row_of[one.line_item_id] for one in creatives]
    creative_ids, creative_line_items = _column(one.id for one in creatives), _column(creative_rows)
    starts = _column(max(item.flight.start_ms, campaign.flight.start_ms) for item, campaign, _ in chains)
    ends = _column(min(_end_ms(item), _end_ms(campaign)) for item, campaign, _ in chains)
    goal_kind = _column(GOAL_CODES[item.goal.kind] for item in items).astype(np.int8)
    target = _column(unit_micros(item.goal, worths.get(one.id, 0)) for item, _, one in chains)
    bid_min = _column(item.bid_min_micros_cpm or 0 for item in items)
    bid_max = _column(min(_or(item.bid_max_micros_cpm, PRICE_MICROS_CPM_MAX), PRICE_MICROS_CPM_MAX) for item in items)
    caps = CapBook(_caps(items), _caps(campaigns), _caps(advertisers))
    has_caps = [caps.any(item.id, campaign.id, advertiser.id) for item, campaign, advertiser in chains]
    entities = Entities(items, campaigns, advertisers, creatives, creative_rows, catalogue.deals)
    return Snapshot(
        version=version,
        built_at_ms=built_at_ms,
        line_items=items,
        campaigns=campaigns,
        advertisers=advertisers,
        creatives=creatives,
        orphan_ids=orphan_ids,
        conversion_rules=catalogue.conversion_rules,
        line_item_ids=_column(item.id for item in items),
        campaign_id=_column(campaign.id for campaign in campaigns),
        advertiser_id=_column(advertiser.id for advertiser in advertisers),
        goal_kind=goal_kind,
        target_micros=target,
        bid_min_micros_cpm=bid_min,
        bid_max_micros_cpm=bid_max,
        terms_micros=np.stack((*unit_prices(goal_kind, target), bid_min, bid_max), axis=1),
        has_caps=np.array(has_caps, dtype=np.bool_),
        creative_ids=creative_ids,
        creative_line_items=creative_line_items,
        creative_start=np.searchsorted(creative_line_items, np.arange(len(items) + 1)).astype(np.int64),
        creative_lots=_lots(creative_ids),
        index=Index(entities, starts, ends),
        ranking=Ranking(_prior_value(goal_kind, target, bid_min, bid_max)),
        caps=caps,
    )


def _chains(
    catalogue: Catalogue, worths: Mapping[int, Micros]
) -> tuple[list[tuple[LineItem, Campaign, Advertiser]], tuple[int, ...]]:
    """Each line item with its parents, by id; and the ids of those whose parents are gone or that nobody can count.

    One whose time zone nobody here knows has no days to budget, and the rest must go on.
    """
    campaigns = {campaign.id: campaign for campaign in catalogue.campaigns}
    advertisers = {one.id: one for one in catalogue.advertisers if knows_timezone(one.timezone)}
    chains, orphan_ids = [], []
    for item in sorted(catalogue.line_items, key=lambda one: one.id):
        campaign = campaigns.get(item.campaign_id)
        advertiser = advertisers.get(campaign.advertiser_id) if campaign is not None else None
        if (
            campaign is None
            or advertiser is None
            or max(item.id, campaign.id, advertiser.id) > ID_MAX
            or unit_micros(item.goal, worths.get(advertiser.id, 0)) > _INT64_MAX
        ):
            orphan_ids.append(item.id)
        else:
            chains.append((item, campaign, advertiser))
    return chains, tuple(orphan_ids)


def _caps(entities: Sequence[LineItem | Campaign | Advertiser]) -> dict[int, tuple[FrequencyCap, ...]]:
    known: dict[tuple[FrequencyCap, ...], tuple[FrequencyCap, ...]] = {}  # most are like some other's
    return {
        entity.id: known.setdefault(entity.frequency_caps, entity.frequency_caps)
        for entity in entities
        if entity.frequency_caps
    }


def _end_ms(entity: LineItem | Campaign) -> int:
    return _or(entity.flight.end_ms, _FOREVER_MS)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _column(values: Iterable[int]) -> NDArray[np.int64]:
    """Read the values one by one: an array made of a list in one call keeps other threads waiting."""
    return np.fromiter(values, dtype=np.int64)


def _prior_value(
    goal_kind: NDArray[np.int8],
    target_micros: NDArray[np.int64],
    bid_min: NDArray[np.int64],
    bid_max: NDArray[np.int64],
) -> NDArray[np.float64]:
    rates = np.ones(goal_kind.shape[0])
    value = value_micros_cpm(goal_kind, target_micros, rates * PRIOR_CTR, rates * PRIOR_CVR)
    return np.minimum(np.maximum(value, bid_min), bid_max)


def _lots(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """SplitMix64 of the ids: a bijection, so that no two creatives ever draw the same."""
    mixed = ids.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
