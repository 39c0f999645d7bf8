"""The API's settings: table `api` of the settings file."""

import msgspec

from dsp.kernel.config import require


class ApiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the API listens, and its bounds."""

    host: str = "127.0.0.1"  # where it listens
    port: int = 8000  # 0 lets the system choose
    body_bytes_max: int = 1_048_576  # of a request; larger: 413
    page_size_max: int = 500  # entities in one answer; asking for more: 422
    report_rows_max: int = 100_000  # in one report; asking for more: 422
    connections_max: int = 200  # requests being answered at once; more: 503, but for /healthz, /readyz and /metrics
    requests_per_second_max: int = 100  # of one key, in one process; more: 429
    idempotency_seconds: int = 86_400  # how long the answer to a write with an Idempotency-Key is remembered
    explain_records_max: int = 200_000  # stored requests looked through for one auction, the newest
    delivery_requests: int = 500  # stored requests, the newest, that a line item's delivery is explained by
    drain_timeout_seconds: int = 5  # after SIGTERM, for requests in flight

    def __post_init__(self) -> None:
        bounds = [name for name in self.__struct_fields__ if name not in ("host", "port")]
        require(
            ("port", 0 <= self.port <= 65_535, "must be 0 to 65535"),
            *[(name, getattr(self, name) >= 1, "must be at least 1") for name in bounds],
        )
