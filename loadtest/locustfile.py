"""Load for SREs: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 --headless -u 50 -t 60s`.

Each user sends a seeded request once the last is answered and `--pause-ms` have passed: a bidder that stalls is asked
less (coordinated omission), so for latency at a rate see `python -m loadtest capacity`. The exit status is 1 when the
run breaks the service level: errors, the p99, or the share of answers later than their request's tmax.
"""

import os
from itertools import count
from typing import Any

from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.traffic import Source, Traffic

_TMAX_MS = 200
_numbers = count()
_late = 0


def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--exchange", default="openrtb", help="profile that the requests come under")
    parser.add_argument("--traffic-seed", type=int, default=1, help="seed of the requests")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="pause of each user between requests")
    parser.add_argument("--slo-p99-ms", type=float, default=100.0, help="the 99th percentile must be below this")
    parser.add_argument("--slo-error-share", type=float, default=0.001, help="failed requests must be fewer than this")
    parser.add_argument("--slo-late-share", type=float, default=0.001, help="late answers must be fewer than this")


class ExchangeUser(FastHttpUser):
    """One connection of an exchange."""

    def on_start(self) -> None:
        """Prepare this user's traffic; each process of a distributed run has its own."""
        options: Any = self.environment.parsed_options
        source = Source(options.exchange, "2.6", True, _TMAX_MS, 1.0, gzip_share=0.25, deals=True)
        self._traffic = Traffic(options.traffic_seed + os.getpid(), (source,))
        self._pause_seconds = options.pause_ms / 1_000

    def wait_time(self) -> float:
        """Return the pause between two requests, seconds."""
        return float(self._pause_seconds)

    @task
    def bid(self) -> None:
        """Send one bid request; 200 and 204 are right answers, anything else is an error."""
        global _late
        request = self._traffic.request(next(_numbers))
        exchange = request.source.exchange
        with self.client.post(
            f"/openrtb2/{exchange}",
            data=request.body,  # type: ignore[arg-type]  # bytes are sent as they are
            headers=request.headers,
            name=exchange,
            catch_response=True,
        ) as answer:
            if answer.status_code not in (200, 204):
                answer.failure(f"status {answer.status_code}")
            elif answer.request_meta["response_time"] > request.source.tmax_ms:
                _late += 1


def _tell(data: dict[str, Any], **_: Any) -> None:
    """Add to a worker's report how many answers were late since its last one."""
    global _late
    data["late"], _late = _late, 0


def _hear(data: dict[str, Any], **_: Any) -> None:
    global _late
    _late += data["late"]


def _judge(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return  # of a distributed run the master knows all
    stats = environment.stats.total
    options: Any = environment.parsed_options
    requests = max(1, stats.num_requests)
    p99_ms = stats.get_response_time_percentile(0.99) or 0.0
    broken = [
        message
        for message, bad in (
            ("no request was answered", stats.num_requests == 0),
            (f"errors {stats.num_failures / requests:.2%}", stats.num_failures > options.slo_error_share * requests),
            (f"p99 {p99_ms:.0f} ms", p99_ms >= options.slo_p99_ms),
            (f"late {_late / requests:.2%}", _late > options.slo_late_share * requests),
        )
        if bad
    ]
    for message in broken:
        print(f"service level broken: {message}")
    environment.process_exit_code = int(bool(broken))


events.init_command_line_parser.add_listener(_arguments)  # type: ignore[no-untyped-call]
events.report_to_master.add_listener(_tell)  # type: ignore[no-untyped-call]
events.worker_report.add_listener(_hear)  # type: ignore[no-untyped-call]
events.quitting.add_listener(_judge)  # type: ignore[no-untyped-call]
