"""Every metric of the project and the values its labels may take. Prometheus conventions; no label has user input.

Label values that are known beforehand are preset to zero, so that a rate() exists before the first event.
"""

from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram, Info, disable_created_metrics

from dsp.kernel.counting import LoopCounter, LoopHistogram

# A second series for each, with the time it was made, doubles a scrape and answers no question of ours.
disable_created_metrics()  # type: ignore[no-untyped-call]

#: Edges sit on the service levels that exchanges state (50, 80, 100, 150, 250 ms).
LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.25, 1.0)


class Outcome(StrEnum):
    """How a bid request ended."""

    BID = "bid"
    NO_BID = "no_bid"
    INVALID = "invalid"
    ERROR = "error"


class Stage(StrEnum):
    """The stages of an auction, in order."""

    DECODE = "decode"
    ENRICH = "enrich"
    FUNNEL = "funnel"
    PREDICT = "predict"
    PRICE = "price"
    RESPOND = "respond"


class Fallback(StrEnum):
    """Why the prior answered instead of the model."""

    TIME_SHORT = "time_short"  # before the model was asked
    EXPIRED = "expired"  # while a batch was waited for
    QUEUE_FULL = "queue_full"
    FAILED = "failed"  # the batch raised
    STOPPING = "stopping"


class NoticeResult(StrEnum):
    """What became of a notice."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    LATE = "late"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


# The bid path
BID_REQUESTS = LoopCounter("dsp_bid_requests_total", "Bid requests answered, by outcome.", ["exchange", "outcome"])
BID_DURATION = LoopHistogram(
    "dsp_bid_duration_seconds",
    "From a request's arrival to its answer.",
    ["exchange"],
    buckets=LATENCY_BUCKETS,
)
BID_STAGE_DURATION = LoopHistogram(
    "dsp_bid_stage_duration_seconds",
    "Time spent in one stage of the auction, of one auction in eight.",
    ["stage"],
    buckets=LATENCY_BUCKETS,
)
BIDS_LATE = LoopCounter("dsp_bid_late_total", "Answers that left after the deadline.", ["exchange"])
NO_BIDS = LoopCounter("dsp_no_bids_total", "Requests or impressions without a bid, by reason.", ["exchange", "reason"])
BIDS = LoopCounter("dsp_bids_total", "Bids sent.", ["exchange", "format"])
BIDS_DROPPED = LoopCounter("dsp_bids_dropped_total", "Bids that our own check withheld.", ["check"])
INFLIGHT = Gauge("dsp_inflight_requests", "Bid requests being answered at once, the most of the last second.")
INFLIGHT_MAX = Gauge("dsp_inflight_requests_max", "The bound on requests being answered.")
CONNECTIONS = Gauge("dsp_connections", "Connections that are open, by port.", ["port"])
CONNECTIONS_MAX = Gauge("dsp_connections_max", "The bound on connections of each port.")
CONNECTIONS_CLOSED = Counter(
    "dsp_connections_closed_total", "Connections closed, or not taken, for want of room, by port.", ["port"]
)
PREDICT_DURATION = LoopHistogram(
    "dsp_predict_duration_seconds", "The call that scored an impression, alone or with others.", buckets=LATENCY_BUCKETS
)
PREDICT_BATCH = LoopHistogram(
    "dsp_predict_batch_size",
    "Candidates in the call that scored an impression.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
PREDICT_FALLBACKS = LoopCounter(
    "dsp_predict_fallbacks_total", "Calls answered by the prior instead of the model, by why.", ["reason"]
)
BATCH_ROWS = LoopHistogram(
    "dsp_batch_rows",
    "Candidates of several requests in one run of the model, where it runs in batches.",
    buckets=(1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
)
BATCH_WAIT = LoopHistogram(
    "dsp_batch_wait_seconds",
    "From a request's joining a batch to the batch's leaving.",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
)
BATCH_DURATION = LoopHistogram(
    "dsp_batch_duration_seconds",
    "One run of the model for a batch.",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
)
BATCH_QUEUE_ROWS = Gauge("dsp_batch_queue_rows", "Candidates that wait to join a batch.")

# Notices
NOTICES = LoopCounter("dsp_notices_total", "Notices received, by kind and result.", ["kind", "result"])
NOTICES_REFUSED = LoopCounter("dsp_notices_refused_total", "Notices refused, by reason.", ["reason"])
ADMIN_REFUSED = Counter(
    "dsp_admin_refused_total", "Requests refused on the bidder's admin port, by reason.", ["reason"]
)

# Users
USER_FAULTS = Counter(
    "dsp_user_faults_total", "Calls of the user store without an answer, by call and fault.", ["call", "fault"]
)
EXPOSURES_FORGOTTEN = Counter(
    "dsp_exposures_forgotten_total", "Impressions forgotten early because a bound was reached, by bound.", ["bound"]
)
USERS_CACHED = Gauge("dsp_users_cached", "Users remembered in this process's memory.")
USERS_CACHED_MAX = Gauge("dsp_users_cached_max", "The bound on users remembered in this process's memory.")
USER_EVENTS_CACHED = Gauge("dsp_user_events_cached", "Their impressions, clicks and conversions remembered with them.")
USER_EVENTS_CACHED_MAX = Gauge("dsp_user_events_cached_max", "The bound on those.")

# The log
LOG_LINES_LOST = Counter("dsp_log_lines_lost_total", "Log lines not written, as the disk is full or nobody reads them.")

# The outbox
OUTBOX_DEPTH = Gauge("dsp_outbox_depth", "Records waiting to be written to the event log.", ["topic"])
OUTBOX_SPILLED = Gauge("dsp_outbox_spilled", "Records on disk that the event log has not taken yet.", ["topic"])
OUTBOX_DEPTH_MAX = Gauge("dsp_outbox_depth_max", "The bound on records waiting.", ["topic"])
OUTBOX_DROPPED = Counter(
    "dsp_outbox_dropped_total", "Records that nobody waits for, dropped because the outbox was full.", ["topic"]
)
OUTBOX_FLUSH_DURATION = Histogram(
    "dsp_outbox_flush_duration_seconds", "One append to the event log.", buckets=LATENCY_BUCKETS
)

# Money
LEASE_FREE = Gauge("dsp_lease_free_micros", "Leased money not reserved, over all line items.")
LEASE_RESERVED = Gauge("dsp_lease_reserved_micros", "Reserved by bids that are not resolved yet.")
LEASE_SYNCS = Counter("dsp_lease_syncs_total", "Lease synchronisations, by result.", ["result"])
LEASE_WATERMARK_AGE = Gauge("dsp_lease_watermark_age_seconds", "How far the ledger is behind, as the bidder sees it.")
LEASE_SHARDS_CLOSED = Gauge(
    "dsp_lease_shards_closed", "Parts of the lease store that lost their data, and grant nothing until it is safe."
)
SPEND = Counter("dsp_spend_micros_total", "Billed and entered in the book.", ["currency"])
LEDGER_EVENTS = Counter("dsp_ledger_events_total", "Notices read by the ledger, by what became of them.", ["result"])
LEDGER_IMBALANCE = Gauge("dsp_ledger_imbalance_micros", "Sum of all postings in the book; anything but 0 is a fault.")
LATE_CHARGED = Counter(
    "dsp_late_charged_micros_total", "Billed after the reservation had ended, and charged to budgets that had room."
)
LATE_WINS = Counter(
    "dsp_late_wins_micros_total", "Billed after the reservation had ended, and owed: no budget had room for it."
)
OVERSPENT = Gauge(
    "dsp_overspent_micros", "Charged beyond hard budgets; anything but 0 is a fault, or a budget that was lowered."
)
CAMPAIGNS_CLOSED = Gauge("dsp_campaigns_closed", "Campaigns that pacing cannot plan for: nothing of them bids.")
PACING_ERROR = Histogram(
    "dsp_pacing_error_ratio",
    "Spend over plan, per active line item and control step.",
    buckets=(0.5, 0.8, 0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0),
)

# What is being served
CATALOGUE_UNREADABLE = Gauge(
    "dsp_catalogue_unreadable", "Entities of the catalogue that nobody here can read: nothing of them bids."
)
SNAPSHOT_AGE = Gauge("dsp_snapshot_age_seconds", "Age of the snapshot in use.")
SNAPSHOT_PUBLISHED = Gauge("dsp_snapshot_published_timestamp_seconds", "When the latest snapshot was published.")
SNAPSHOT_LINE_ITEMS = Gauge("dsp_snapshot_line_items", "Line items in the snapshot in use.")
SNAPSHOT_SWAPS = Counter("dsp_snapshot_swaps_total", "Snapshots loaded, by result.", ["result"])
MODEL = Info("dsp_model", "The model in use by alias, and the device it runs on.", ["alias"])
MODEL_AGE = Gauge("dsp_model_age_seconds", "Since the model in use was built; absent for the prior.", ["alias"])
MODEL_SWAPS = Counter("dsp_model_swaps_total", "Model bundles loaded, by result.", ["result"])
CHALLENGER_SWAPS = Counter(
    "dsp_challenger_swaps_total", "Challengers loaded to score in shadow, by result.", ["result"]
)
PRIOR_SWAPS = Counter("dsp_prior_swaps_total", "Priors learned online that were loaded, by result.", ["result"])
PRIOR_AGE = Gauge("dsp_prior_age_seconds", "Since the latest instant of which the prior in use has learned.")
SHADOW_SCORED = Counter("dsp_shadow_scored_total", "Decisions scored by a challenger too, by result.", ["result"])
LANDSCAPE_SWAPS = Counter("dsp_landscape_swaps_total", "Landscapes of first prices loaded, by result.", ["result"])
CONTROLS_AGE = Gauge("dsp_controls_age_seconds", "Age of the pacing controls in use.")
NIGHTLY_SUCCESS = Gauge("dsp_nightly_success_timestamp_seconds", "When the last nightly run that did not fail ended.")
NIGHTLY_FAILURE = Gauge("dsp_nightly_failure_timestamp_seconds", "When the last nightly run that failed ended.")

# The online learner
ONLINE_ROWS = Counter("dsp_online_rows_total", "Impressions and responses, by what became of them.", ["result"])
ONLINE_PENDING = Gauge("dsp_online_pending", "Bids, impressions and clicks that the learner waits for.")
ONLINE_PENDING_MAX = Gauge("dsp_online_pending_max", "The bound on bids, and on impressions, that it waits for.")
ONLINE_LEARNED = Gauge("dsp_online_learned_timestamp_seconds", "The latest instant of which the learner has learned.")
ONLINE_LOSS = Gauge("dsp_online_loss_ratio", "Log loss of what was foretold, over that of constants.", ["model"])

# Every process
EVENT_LOOP_LAG = Gauge("dsp_event_loop_lag_seconds", "How late a timer fired, worst of the last second.")
CONSUMER_LAG = Gauge("dsp_consumer_lag_records", "Records not read yet.", ["topic", "group"])
POISON_RECORDS = Counter("dsp_poison_records_total", "Records of the event log that are no event.", ["topic"])
LOG_CLOCK_BACK = Counter(
    "dsp_log_clock_back_records_total",
    "Records stamped further behind those before them than is allowed for.",
    ["topic"],
)
LOG_GAPS = Counter(
    "dsp_log_gaps_total", "Times that records after a reader's position were gone when it came to read them.", ["topic"]
)
WORKER_STEP = Gauge("dsp_worker_last_step_timestamp_seconds", "When the worker's last step succeeded.", ["worker"])
BATCHES_FAILED = Counter("dsp_worker_failures_total", "Worker batches that failed and will be tried again.", ["worker"])
DISK = Gauge("dsp_data_dir_disk_bytes", "Size of the file system that `data_dir` is on.")
DISK_FREE = Gauge("dsp_data_dir_disk_free_bytes", "Left of it for the process.")
CONFIG = Info("dsp_config", "A hash of the settings in use.")
BUILD = Info("dsp_build", "The version of the software.")

# The API
API_REQUESTS = Counter(
    "dsp_api_requests_total", "API requests, by method, route and status.", ["method", "route", "status"]
)
API_DURATION = Histogram("dsp_api_duration_seconds", "API requests.", ["method", "route"], buckets=LATENCY_BUCKETS)
