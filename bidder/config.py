"""The bidder's settings: table `bidder` of the settings file. Every bound the process has is named here."""

from typing import Literal

import msgspec

from dsp.catalog.terms import CAP_IMPRESSIONS_MAX
from dsp.kernel.config import require
from models.serving.session import Batching, Choice


class BidderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ports, bounds and intervals of one bidder process; the behaviour at each bound is written beside it."""

    host: str = "127.0.0.1"  # where the bid and notice ports listen
    bid_port: int = 8080  # POST /openrtb2/{exchange}; 0 lets the system choose, and the log tells
    notice_port: int = 8081  # win, bill, loss, imp, click, conv
    admin_host: str = "127.0.0.1"  # keep it away from strangers
    admin_port: int = 9090  # /metrics, /healthz, /readyz
    #: Let several bidder processes on one machine share the bid and notice ports.
    reuse_port: bool = False
    #: Names this process to the lease store; two processes that live at once need two names.
    holder: str = "bidder-1"
    #: Where exchanges and browsers reach the notice port; empty: http://{host}:{notice_port}.
    notice_base_url: str = ""
    keepalive_seconds: float = 120.0  # an idle connection is closed after that; exchanges ask for 90 or more
    #: Of the bid port, and of the notice port; at the bound those that have been idle the longest are closed. Fewer
    #: where the system allows the process fewer files.
    connections_max: int = 4_096
    request_seconds_max: float = 2.0  # for a request to arrive whole; slower: 400
    body_bytes_max: int = 262_144  # of a request, also once decompressed; larger: 400
    #: Priority of the event loop's thread, -20 to 0 (nice; see setpriority(2)), where the system allows it: before the
    #: process's threads that write to disk and load models, and before other processes. Far below -10 those that write
    #: fall behind at full load. 0: as all others.
    loop_nice: int = -10
    candidates_max: int = 24  # line items scored for one impression; the others are ranked out
    inflight_max: int = 512  # requests being answered; more: a fast 204, reason `overload`
    safety_ms: int = 5  # kept from tmax, beside the profile's network margin
    time_left_ms_min: float = 3.0  # less left than this: a fast 204, reason `time_short`
    predict_ms_min: float = 2.0  # less left than this: the prior scores instead of the model
    #: Where models run: `cpu`, `cuda` (without a device the bidder does not start), or `auto`, the GPU where there is
    #: one. Trees run on the CPU in any case.
    predict_provider: Choice = "auto"
    #: Whether the candidates of several requests are scored in one run: `always`, `never`, or `auto`, for models that
    #: run on a GPU. On a CPU it gains little and costs latency.
    predict_batching: Batching = "auto"
    predict_batch_rows_max: int = 1_024  # candidates in one run; a batch that is full leaves at once
    predict_batch_wait_ms: float = 1.0  # a batch leaves so long after its first request; timers have whole milliseconds
    #: Candidates waiting for a run; beyond it the prior scores. A request waits until `predict_ms_min` is left.
    predict_queue_rows_max: int = 16_384
    #: Share of an impression's worth to bid where the winner pays its bid and nothing is known yet of its prices.
    first_price_shade: float = 0.85
    #: Share of first-price auctions, chosen by lot, in which bids are moved off the best price so that the landscape is
    #: learned around it too.
    first_price_explore_share: float = 0.02
    reload_interval_ms: int = 250  # how often a new snapshot, new controls and a new champion are looked for
    #: Share of requests kept for `explain`, chosen by lot; raw, or without the user where privacy signals forbid to
    #: keep anything about him.
    request_sample_rate: float = 0.02
    #: Share of auctions, chosen likewise, whose bids a challenger scores beside the champion once the answer has left.
    shadow_share: float = 0.01
    lease_sync_interval_ms: int = 1_000  # how often money is leased, returned and settled
    #: A bid without an outcome counts towards frequency caps for so long; one that has won, until it expires.
    pending_exposure_ms: int = 10_000
    pending_exposures_max: int = 100_000  # beyond it the oldest are forgotten
    #: Impressions remembered of one user; beyond it the oldest are forgotten. No cap can be higher.
    user_exposures_max: int = 1_000
    #: Impressions remembered of all users; beyond it those of the users least recently exposed are forgotten.
    exposures_max: int = 2_500_000
    #: Users remembered; beyond it those least recently exposed are forgotten.
    users_max: int = 250_000
    user_timeout_ms: float = 10.0  # waited for the user store, and never more than half of the time that is left
    #: What line items with frequency caps do when the user store does not answer: `bid`, or `no_bid_capped`.
    user_absent_policy: Literal["bid", "no_bid_capped"] = "no_bid_capped"
    #: The same for a request without a user's identifier, or that forbids keeping anything about the user.
    user_unidentified_policy: Literal["bid", "no_bid_capped"] = "bid"
    late_age_max_seconds: int = 86_400  # a notice of a bid older than this is refused, even as late
    click_age_max_seconds: int = 86_400  # a later click still redirects and is not counted
    conversion_age_max_seconds: int = 31_536_000  # a rule's own window may be shorter; without a rule, 30 days
    #: Notices remembered to tell duplicates; those of forgotten ones are appended again, and the ledger dedupes.
    notices_remembered_max: int = 200_000
    click_id_parameter: str = "dsp_click_id"  # carries the conversion token to the landing page; empty: none
    outbox_notices_flush_ms: int = 50  # notices gather so long before they are appended and acknowledged
    outbox_decisions_flush_ms: int = 250  # so do decisions; a kill loses at most those, and no money with them
    outbox_batch_max: int = 2_000  # records of one append
    outbox_decisions_max: int = 50_000  # waiting; beyond it decisions are dropped and counted
    outbox_requests_max: int = 1_000  # samples waiting, each of up to body_bytes_max; beyond it they are dropped
    outbox_notices_max: int = 20_000  # waiting; beyond it notices get 503
    #: An event log on a server may take so long; what it has not taken then goes to this machine's disk.
    outbox_append_ms_max: int = 1_000
    #: Of notices and of decisions on disk, about 1 kB each; beyond it as if there were no disk. The log in data_dir
    #: needs none.
    outbox_spill_records_max: int = 1_000_000
    #: Share of auctions traced, of those whose caller does not decide it; failed and late ones are traced besides, up
    #: to ten a second. 0: tracing is off. It needs the extra `trace`.
    trace_share: float = 0.0
    trace_url: str = ""  # OTLP over HTTP, e.g. http://collector:4318/v1/traces
    drain_wait_ms: int = 500  # after SIGTERM, for load balancers to see that /readyz says no
    drain_timeout_ms: int = 5_000  # then, for what is in flight and for the outbox

    def __post_init__(self) -> None:
        ports = {name: getattr(self, name) for name in ("bid_port", "notice_port", "admin_port")}
        chosen = [port for port in ports.values() if port]
        rows_min = max(self.candidates_max, _BATCH_ROWS_MIN)
        rows_max, queue_max = self.predict_batch_rows_max, self.predict_queue_rows_max
        require(
            *[(name, 0 <= port <= 65_535, "must be 0 to 65535") for name, port in ports.items()],
            (", ".join(ports), len(chosen) == len(set(chosen)), "must differ"),
            *[(name, 0.0 <= getattr(self, name) <= 1.0, "must be 0 to 1") for name in _SHARES],
            ("trace_share, trace_url", not self.trace_share or bool(self.trace_url), "tracing needs a trace_url"),
            ("first_price_shade", 0.0 < self.first_price_shade <= 1.0, "must be above 0 and at most 1"),
            ("first_price_explore_share", 0.0 <= self.first_price_explore_share <= 0.5, "must be 0 to 0.5"),
            ("loop_nice", -20 <= self.loop_nice <= 0, "must be -20 to 0"),
            *[(name, getattr(self, name) > 0, "must be above 0") for name in _POSITIVE],
            *[(name, getattr(self, name) >= 0, "must be 0 or more") for name in _NOT_NEGATIVE],
            (
                "user_exposures_max",
                self.user_exposures_max >= CAP_IMPRESSIONS_MAX,
                f"must be {CAP_IMPRESSIONS_MAX} or more",
            ),
            ("user_exposures_max, exposures_max", self.user_exposures_max <= self.exposures_max, "must not decrease"),
            (
                "predict_batch_rows_max, candidates_max",
                rows_min <= rows_max,
                f"batches must hold {rows_min} rows or more",
            ),
            ("predict_batch_rows_max, predict_queue_rows_max", rows_max <= queue_max, "must not decrease"),
            (
                "notice_base_url",
                not self.notice_base_url or self.notice_base_url.startswith(("http://", "https://")),
                "must begin with http:// or https://",
            ),
            ("holder", bool(self.holder), "must not be empty"),
        )

    @property
    def notice_url(self) -> str:
        """Return what notice URLs begin with: what was told, or where the port is."""
        host = f"[{self.host}]" if ":" in self.host else self.host  # RFC 3986, 3.2.2
        return self.notice_base_url or f"http://{host}:{self.notice_port}"


#: So that a bundle's golden rows for one impression fit in.
_BATCH_ROWS_MIN = 32
_SHARES = ("request_sample_rate", "shadow_share", "trace_share")
#: A negative margin would answer after tmax.
_NOT_NEGATIVE = (
    "safety_ms",
    "time_left_ms_min",
    "predict_ms_min",
    "pending_exposure_ms",
    "outbox_notices_flush_ms",
    "outbox_decisions_flush_ms",
    "drain_wait_ms",
)
_POSITIVE = (
    "keepalive_seconds",
    "connections_max",
    "request_seconds_max",
    "body_bytes_max",
    "candidates_max",
    "predict_batch_wait_ms",
    "inflight_max",
    "reload_interval_ms",
    "lease_sync_interval_ms",
    "pending_exposures_max",
    "users_max",
    "user_timeout_ms",
    "late_age_max_seconds",
    "click_age_max_seconds",
    "conversion_age_max_seconds",
    "notices_remembered_max",
    "outbox_batch_max",
    "outbox_decisions_max",
    "outbox_requests_max",
    "outbox_notices_max",
    "outbox_append_ms_max",
    "outbox_spill_records_max",
    "drain_timeout_ms",
)
