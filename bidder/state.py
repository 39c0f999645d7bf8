"""What is being served: one immutable value, swapped whole, so that an auction never sees two versions at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bidder.revaluation import RECENT_MAX, Recent
from dsp import registry
from dsp.catalog.entities import ConversionRule
from dsp.kernel import metrics
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import BundleError
from dsp.pacing.columns import ControlColumns
from dsp.snapshot.active import Active
from dsp.snapshot.build import Snapshot
from models.features.encode import ad_rows
from models.serving.bundle import CHALLENGER, CHAMPION
from models.serving.landscape import NO_LANDSCAPES, Landscapes
from models.serving.online import ONLINE
from models.serving.predictor import BatchPredictor, Scorer

#: Landing pages remembered of creatives that have left the catalogue; ads in browsers outlive them.
LANDINGS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Served:
    """A compiled snapshot and what is computed once from it."""

    snapshot: Snapshot
    ad_rows: NDArray[np.int64]  # (C, A), models.features.columns.AD_COLUMNS
    landing_urls: Mapping[int, str] = field(default_factory=dict)  # of creatives that have left, by id
    conversion_rules: Mapping[int, Mapping[int, ConversionRule]] = field(default_factory=dict)  # by advertiser, by id

    def landing_url(self, creative_id: int) -> str:
        """Return where a creative's clicks lead; empty when it is not known here."""
        found = np.flatnonzero(self.snapshot.creative_ids == creative_id)
        if not found.shape[0]:
            return self.landing_urls.get(creative_id, "")
        return self.snapshot.creatives[found.item(0)].landing_url


@dataclass(frozen=True, slots=True)
class ServingState:
    """Everything an auction reads that can change while the process runs."""

    served: Served
    controls: ControlColumns  # aligned with the snapshot's line items
    controls_at_ms: int
    predictor: Scorer  # prepared for the snapshot's creatives, as the prior is
    prior: Scorer  # answers when too little time is left for the predictor
    prior_at_ms: int = 0  # how far it has learned online; 0: it has not
    landscapes: Landscapes = NO_LANDSCAPES  # chances of winning first-price auctions
    challenger: BatchPredictor | None = None  # predicts beside the predictor, once a bid has left; has no say in it


def serve(snapshot: Snapshot, previous: Served | None, ads: NDArray[np.int64] | None = None) -> Served:
    """Compute once what auctions and notices look up in a snapshot; `ads` are its ad_rows where they are known."""
    landing_urls = _left(snapshot, previous) if previous is not None else {}
    rules: dict[int, dict[int, ConversionRule]] = {}
    for rule in sorted(snapshot.conversion_rules, key=lambda rule: rule.id):
        rules.setdefault(rule.advertiser_id, {})[rule.id] = rule
    return Served(snapshot, ad_rows(snapshot) if ads is None else ads, landing_urls, rules)


def _left(snapshot: Snapshot, previous: Served) -> dict[int, str]:
    """Where creatives lead that a snapshot no longer has; of too many, those that left last."""
    found, before = dict(previous.landing_urls), previous.snapshot
    for index in np.flatnonzero(~np.isin(before.creative_ids, snapshot.creative_ids)).tolist():
        creative = before.creatives[index]
        found.pop(creative.id, None)
        found[creative.id] = creative.landing_url
    while len(found) > LANDINGS_MAX:
        del found[next(iter(found))]
    return found


def activate(served: Served, active: Active | None) -> Served:
    """Return what is served with the line items active that are; None where nobody has told."""
    return replace(served, snapshot=active.on(served.snapshot)) if active is not None else served


class Serving:
    """The one reference that auctions and notices read; `current` is None until a snapshot is loaded."""

    def __init__(self) -> None:
        self.current: ServingState | None = None
        self.recent = Recent(maxlen=RECENT_MAX)  # what the predictor has scored

    def swap(self, state: ServingState) -> None:
        """Serve another state from the next auction on."""
        self.current = state
        metrics.SNAPSHOT_LINE_ITEMS.set(len(state.served.snapshot.line_items))
        # The online prior's version changes a few times a minute; as a label it would be a new series each time.
        version = state.predictor.version
        version = ONLINE if version.startswith(ONLINE) else version
        metrics.MODEL.labels(CHAMPION).info({"version": version, "device": state.predictor.device})
        if state.challenger is not None:
            metrics.MODEL.labels(CHALLENGER).info({"version": state.challenger.version})
        else:
            metrics.MODEL.remove(CHALLENGER)

    def cap_window_ms(self) -> int | None:
        """Return the longest window of any frequency cap; None until a snapshot is loaded."""
        return self.current.served.snapshot.caps.window_ms_max if self.current is not None else None

    def landing_url(self, creative_id: int) -> str:
        """Return where a creative's clicks lead; empty when it is not known here."""
        return self.current.served.landing_url(creative_id) if self.current is not None else ""

    def conversion_rules(self, advertiser_id: int) -> Mapping[int, ConversionRule]:
        """Return an advertiser's conversion rules by id."""
        return self.current.served.conversion_rules.get(advertiser_id, {}) if self.current is not None else {}

    def report_ages(self, now_ms: int) -> None:
        """Set the gauges that tell how old the snapshot, the controls and the models are."""
        if self.current is not None:
            metrics.SNAPSHOT_AGE.set((now_ms - self.current.served.snapshot.built_at_ms) / MS_PER_SECOND)
            if self.current.controls_at_ms:
                metrics.CONTROLS_AGE.set((now_ms - self.current.controls_at_ms) / MS_PER_SECOND)
            if self.current.prior_at_ms:
                metrics.PRIOR_AGE.set((now_ms - self.current.prior_at_ms) / MS_PER_SECOND)
            _report_age(self.current.predictor.version, now_ms)


def _report_age(version: str, now_ms: int) -> None:
    """Set the model's age; what was not built, as the prior, has none."""
    try:
        built_at_ms = registry.built_at_ms(version)
    except BundleError:
        metrics.MODEL_AGE.remove(CHAMPION)
    else:
        metrics.MODEL_AGE.labels(CHAMPION).set((now_ms - built_at_ms) / MS_PER_SECOND)
