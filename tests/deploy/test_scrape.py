"""A real Prometheus scrapes a running platform: what dashboards, rules and runbooks ask for is there."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml

from dsp.openrtb.profile import load_profiles
from dsp.workers.config import METERED
from loadtest.client import Client
from loadtest.exchange import Exchange
from loadtest.notifier import Notifier
from loadtest.platform import CATALOGUE, EXCHANGES, Platform
from loadtest.traffic import Traffic
from loadtest.truth import Truth
from tests.deploy import files
from tests.servers import free_port, platform_ports
from tests.servers.prometheus import Prometheus, program
from tests.traffic import PATIENT

pytestmark = [pytest.mark.platform, pytest.mark.timeout(600)]

TRAFFIC_SECONDS, RATE = 8.0, 60.0
ANSWER_SECONDS = 120.0
#: Series that there are only once something has happened that a short, healthy run does not see.
QUIET = {
    "dsp_model_age_seconds": "no model was trained yet: the prior serves, and has no age",
    "dsp_nightly_success_timestamp_seconds": "no nightly run yet: the panel leaves out what is 0",
    "dsp_nightly_failure_timestamp_seconds": "likewise",
    'dsp_api_requests_total{status=~"5.."}': "no request of the API failed",
    "dsp_log_clock_back_records_total": "the log is on disk here, and stamps by one clock: only brokers have several",
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, int]]:
    program("prometheus")  # skip before anything is started
    base = free_port(len(METERED))
    settings = {"DSP_WORKERS_METRICS_PORT_BASE": str(base)}
    platform = Platform(tmp_path_factory.mktemp("dsp"), platform_ports(), settings)
    platform.run("dsp", "migrate")
    platform.run("dsp", "load", str(CATALOGUE))
    try:
        platform.up()
        yield platform, base
    finally:
        platform.down()


@pytest.fixture(scope="module")
def prometheus(platform: tuple[Platform, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    running, base = platform
    folder = tmp_path_factory.mktemp("prometheus")
    config = files.read_yaml(files.PROMETHEUS / "prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(files.PROMETHEUS / name) for name in config["rule_files"]]
    ports = {
        "dsp-bidder": [running.ports.admin],
        "dsp-api": [running.ports.api],
        "dsp-worker": [base + number for number in range(len(METERED))],
    }
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports.pop(job["job_name"])]}]
    assert not ports
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    server = Prometheus(folder, path)
    try:
        server.start()
        asyncio.run(drive(running))
        knock(running)
        yield server
    finally:
        server.stop()


async def drive(platform: Platform) -> None:
    """Send a few seconds of traffic."""
    until = time.monotonic() + TRAFFIC_SECONDS
    async with Client() as bids, Client(ends_tls=platform.ends_tls) as calls:
        truth = Truth()
        truth.begin("traffic")
        notifier = Notifier(calls, truth, 1)
        exchange = Exchange(bids, platform.bid_url, Traffic(1, PATIENT), load_profiles(EXCHANGES), truth, notifier)
        await exchange.drive(RATE, lambda _: time.monotonic() > until, 1.0)
        await notifier.settle(60.0)
        await notifier.close()


def knock(platform: Platform) -> None:
    """Send a forged notice, and call the API."""
    notice, api = platform.ports.notice, platform.ports.api
    for url in (f"http://127.0.0.1:{notice}/bill?t=forged", f"http://127.0.0.1:{api}/healthz"):
        with suppress(HTTPError), urlopen(url, timeout=60.0):
            pass


def without_data(prometheus: Prometheus, queries: dict[str, str]) -> dict[str, str]:
    """Return the queries that have no series, once all have or time is up."""
    give_up_at = time.monotonic() + ANSWER_SECONDS
    while True:
        queries = {where: query for where, query in queries.items() if not prometheus.query(query)}
        if not queries or time.monotonic() > give_up_at:
            return queries
        time.sleep(1.0)


def is_quiet(query: str) -> bool:
    return any({found.name, found.name + found.matchers} & set(QUIET) for found in files.selectors(query))


def test_every_process_is_scraped(prometheus: Prometheus) -> None:
    missing = {"targets": f"sum(up) == {2 + len(METERED)}"}
    assert not without_data(prometheus, missing), prometheus.get("targets")


@pytest.mark.parametrize("path", files.DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something(prometheus: Prometheus, path: Path) -> None:
    queries = {
        f"{title} {number}": query
        for number, (title, query) in enumerate(files.panel_queries(path))
        if not is_quiet(query)
    }
    assert not without_data(prometheus, queries)


def test_every_recorded_rule_has_data(prometheus: Prometheus) -> None:
    assert not without_data(prometheus, {rule["record"]: rule["record"] for rule in files.rules("recording")})


def test_every_series_of_alerts_and_runbooks_is_there(prometheus: Prometheus) -> None:
    """The alerts themselves are silent: it is what they look at that has to be there."""
    asked = {found.name + found.matchers for _, query in files.every_query() for found in files.selectors(query)}
    assert not without_data(prometheus, {query: query for query in asked if not is_quiet(query)})


def test_requests_in_flight_are_seen_though_no_scrape_comes_while_one_is_answered(prometheus: Prometheus) -> None:
    assert prometheus.query("max_over_time(dsp_inflight_requests[5m]) > 0")


def test_a_healthy_platform_is_quiet(prometheus: Prometheus) -> None:
    """Nothing fires on a young and healthy platform: an alert that cries wolf here would everywhere."""
    firing = [
        alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"] if alert["state"] == "firing"
    ]
    assert not firing


def test_rules_evaluate_without_a_fault(prometheus: Prometheus) -> None:
    faults = [
        (rule["name"], rule["lastError"])
        for group in prometheus.get("rules")["groups"]
        for rule in group["rules"]
        if rule["health"] == "err"
    ]
    assert not faults


def test_what_is_called_quiet_is_quiet(prometheus: Prometheus) -> None:
    """So that the list does not outlive its reasons."""
    for name in QUIET:
        assert not prometheus.query(f"{name} > 0")
