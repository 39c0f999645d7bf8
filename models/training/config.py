"""The settings of training and evaluation: table `training`."""

from typing import Literal

import msgspec

from dsp.kernel.config import require
from models.evaluation import gates

Family = Literal["ftrl", "gbdt", "network"]
#: In the order of preference, that which is most careful with few data first, their blend after it: one serves instead
#: of those before it only if it is better with confidence.
FAMILIES: tuple[Family, ...] = ("gbdt", "ftrl", "network")


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is learned from, how carefully, and what a new model must show."""

    window_days: int = 30  # of traffic to learn from
    #: Impressions of the window at most; beyond it clicks stay, and each other impression kept stands for several.
    rows_max: int = 1_000_000
    #: What joins bids with notices: `duckdb` in this process, or `spark` (extra `spark`) as its own files configure it.
    engine: Literal["duckdb", "spark"] = "duckdb"
    engine_memory_mb: int = 2_048  # of DuckDB; what is more goes to disk
    #: An impression counts once it is this old: by then nearly all of its clicks have come.
    maturity_seconds: float = 60.0
    conversion_window_seconds: int = 30 * 24 * 3_600  # a later conversion is not a click's any more
    rows_min: int = 500  # impressions; with fewer nothing is trained
    clicks_min: int = 30  # likewise
    #: Fewer than these and conversion rates are smoothed along the hierarchy of ads, without a model.
    conversions_min: int = 300
    online_publish_seconds: float = 15.0  # how often what is learned online is published as the prior
    #: Bids, and impressions, that the online learner waits for; beyond it the oldest are not learned from.
    online_pending_max: int = 50_000
    #: Rows are cut into so many time blocks; each is scored by what was learned from the blocks before it.
    blocks: int = 6
    #: Kinds of models that are trained, where what they need is installed: trees, regression, network. Of several there
    #: is a blend as well; the most careful, trees, serve unless another is better with the gate's confidence.
    families: tuple[Family, ...] = ("gbdt", "ftrl", "network")
    rounds_max: int = 80  # trees at most; how many are best is found on later blocks
    leaves: int = 8  # of a tree
    learning_rate: float = 0.05  # of each tree
    #: The gate: how sure it must be that the challenger's log loss is lower than the champion's, by a bootstrap.
    gate_confidence: float = 0.95
    gate_resamples: int = 1_000  # of the bootstrap
    gate_rows_min: int = 300  # impressions, or auctions, new to both that they are compared on
    #: An exchange or campaign with so many clicks has to be calibrated too, unless the champion is further off.
    gate_slice_clicks_min: int = 200
    #: A challenger that was neither proven nor disproven in shadow for so long makes room for a newer one.
    challenger_days_max: float = 7.0
    #: The gate: how much worse in log loss (relative) a model may be than the prior.
    log_loss_tolerance: float = 0.0
    pcoc_min: float = 0.7  # the gate: sum of predictions over clicks, at least
    pcoc_max: float = 1.4  # and at most
    #: The champion is challenged once so many clicks have come that it was not trained on.
    new_clicks_min: int = 30
    #: First-price auctions of an exchange, with a known outcome, from which on its prices are learned from the context.
    landscape_rows_min: int = 5_000
    landscape_fallback_rows_min: int = 300  # with so many it has a smoothed histogram; with fewer, a constant share
    landscape_rows_max: int = 100_000  # the latest of all exchanges
    run_hours_max: float = 20.0  # a run that was killed goes on where it stopped, unless it began longer ago
    runs_kept: int = 3  # folders of the latest runs, with all that their steps made
    versions_kept: int = 30  # the latest in the registry; those that an alias names are kept in any case
    notify_url: str = ""  # what became of a run is posted there as JSON; empty: nowhere
    seed: int = 7  # of the trees' sampling: the same rows and seed give the same model
    threads: int = 1  # of LightGBM and DuckDB

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        fallback_min, rows_min, rows_max = (
            self.landscape_fallback_rows_min,
            self.landscape_rows_min,
            self.landscape_rows_max,
        )
        require(
            ("blocks", self.blocks >= 3, "must be at least 3: one to start from, two to compare on"),
            *[(name, getattr(self, name) >= 1, "must be at least 1") for name in _POSITIVE],
            *[(name, getattr(self, name) >= 0, "must not be negative") for name in _NOT_NEGATIVE],
            ("leaves", self.leaves >= 2, "must be at least 2"),
            ("rows_min, rows_max", self.rows_min <= self.rows_max, "must not decrease"),
            ("landscape_fallback_rows_min, landscape_rows_min", fallback_min <= rows_min, "must not decrease"),
            ("landscape_rows_min, landscape_rows_max", rows_min <= rows_max, "must not decrease"),
            ("gate_confidence", 0.5 <= self.gate_confidence < 1, "must lie in [0.5, 1)"),
            (
                "engine_memory_mb",
                self.engine_memory_mb >= 100,
                "must be at least 100: DuckDB gives up with less, and does not use disk",
            ),
            (
                "notify_url",
                not self.notify_url or self.notify_url.startswith(("http://", "https://")),
                "must begin with http:// or https://",
            ),
            ("online_publish_seconds", self.online_publish_seconds > 0, "must be above 0"),
            (
                "families",
                bool(self.families) and len(set(self.families)) == len(self.families),
                "must name kinds of models, each once",
            ),
            ("learning_rate", 0 < self.learning_rate <= 1, "must lie in (0, 1]"),
            ("pcoc_min", 0 < self.pcoc_min < 1, "must lie between 0 and 1"),
            ("pcoc_max", self.pcoc_max > 1, "must be above 1"),
        )

    def limits(self) -> gates.Limits:
        """Return the gate's bounds."""
        return gates.Limits(
            confidence=self.gate_confidence,
            resamples=self.gate_resamples,
            rows_min=self.gate_rows_min,
            clicks_min=self.new_clicks_min,
            log_loss_tolerance=self.log_loss_tolerance,
            pcoc_min=self.pcoc_min,
            pcoc_max=self.pcoc_max,
            slice_clicks_min=self.gate_slice_clicks_min,
            seed=self.seed,
        )


_NOT_NEGATIVE = ("run_hours_max", "challenger_days_max", "seed", "maturity_seconds")
#: Without any clicks or conversions nothing can be judged.
_POSITIVE = (
    "window_days",
    "rows_min",
    "clicks_min",
    "rounds_max",
    "threads",
    "new_clicks_min",
    "conversions_min",
    "landscape_fallback_rows_min",
    "gate_resamples",
    "gate_rows_min",
    "gate_slice_clicks_min",
    "runs_kept",
    "versions_kept",
    "online_pending_max",
    "conversion_window_seconds",
)
