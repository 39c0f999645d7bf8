"""The settings of the workers: table `workers`."""

from math import inf

import msgspec

from dsp.kernel.config import require

#: The workers by name, which is also their module in this package.
WORKERS = ("ledger", "snapshot", "pacing", "training_log", "traffic")
#: Those and the online learner of models; a worker's metrics port is the base plus its place.
METERED = (*WORKERS, "online")
_BASE_MAX = 65_535 - len(METERED)
_POSITIVE = (
    "batch_records",
    "wait_ms",
    "retry_ms_min",
    "retry_ms_max",
    "snapshot_poll_ms",
    "ledger_step_ms",
    "pacing_step_ms",
    "lease_holder_timeout_ms",
    "training_flush_records",
    "training_flush_ms",
)


class WorkersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds and intervals; every one has a value that suits one machine."""

    metrics_host: str = "127.0.0.1"  # keep it away from strangers
    #: A worker's metrics port is this plus its place among ledger, snapshot, pacing, training_log, traffic, online.
    #: 0: none.
    metrics_port_base: int = 0
    batch_records: int = 1_000  # read from the event log at a time
    wait_ms: int = 200  # for the first record of a batch; also the longest a stop has to wait for an idle worker
    retry_ms_min: int = 100  # after a failed batch, doubling
    retry_ms_max: int = 5_000  # and no longer than this
    #: A step that takes longer hangs: the process says in which line each thread is and ends, to be started anew.
    #: 0: it is waited for.
    hang_seconds: int = 600
    snapshot_poll_ms: int = 200  # how often the catalogue is looked at for a change
    #: How often notices are entered in the book; spent money is counted twice for about so long.
    ledger_step_ms: int = 250
    pacing_step_ms: int = 1_000  # how often spend is held against plan
    #: Local traffic by hour of day, relative weights, for the spend plan until it is learned; empty: the same all day.
    traffic_curve: tuple[float, ...] = ()
    lease_holder_timeout_ms: int = 30_000  # a bidder silent for this long is taken for dead
    training_flush_records: int = 20_000  # a Parquet file holds at most so many rows
    training_flush_ms: int = 10_000  # and is written at the latest so long after its first record was read
    retention_hours: float = 168.0  # event-log records that every consumer has read are kept so long
    trim_every_seconds: float = 60.0  # how often the event log is cut back to that

    def __post_init__(self) -> None:
        """Refuse what no worker could run with."""
        curve = self.traffic_curve
        weights = len(curve) == 24 and min(curve) >= 0 and 0 < sum(curve) < inf
        require(
            *[(name, getattr(self, name) >= 1, "must be at least 1") for name in _POSITIVE],
            ("hang_seconds", self.hang_seconds >= 0, "must not be negative"),
            ("wait_ms", self.wait_ms <= 1_000, "must be at most 1000"),
            ("retry_ms_min, retry_ms_max", self.retry_ms_min <= self.retry_ms_max, "must not decrease"),
            ("retention_hours", self.retention_hours >= 0, "must not be negative"),
            ("trim_every_seconds", self.trim_every_seconds > 0, "must be above 0"),
            ("metrics_port_base", 0 <= self.metrics_port_base <= _BASE_MAX, f"must be 0 to {_BASE_MAX}"),
            ("traffic_curve", not curve or weights, "must be 24 weights, not negative and not all 0"),
        )
