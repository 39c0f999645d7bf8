"""The platform on real Kafka, Valkey and PostgreSQL: nothing lost and nothing overspent, also when parts are killed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.cluster import drill, run
from loadtest.cluster.faults import FAULTS
from loadtest.cluster.servers import Servers, servers
from loadtest.platform import PlatformError
from loadtest.traffic import Traffic
from tests.servers import absent
from tests.traffic import PATIENT

#: Those that take the longest to recover from are left to `make drill`.
DRILLED = ("a bidder killed", "a ledger worker killed", "records that are no events", "PostgreSQL killed")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Servers]:
    try:
        with servers(tmp_path / "servers") as found:
            yield found
    except PlatformError as fault:
        absent(str(fault))


@pytest.mark.platform
def test_the_servers_are_set_as_the_docs_recommend(running: Servers) -> None:
    page = (Path(__file__).parents[3] / "docs/cache.md").read_text(encoding="utf-8")
    with running.valkey.client() as client:
        found = client.config_get("append*")
    assert f"`appendonly {found['appendonly']}`, `appendfsync {found['appendfsync']}`" in page


@pytest.mark.platform
@pytest.mark.timeout(600)
def test_the_book_is_the_exchanges_own_account(running: Servers, tmp_path: Path) -> None:
    report = asyncio.run(run.measure(tmp_path / "platform", running.settings, 8.0, 25.0, Traffic(3, PATIENT)))
    assert report.ok, report
    assert report.wins > 20
    assert report.lag_ms["p99"] > 0.0
    assert report.duplicated == report.unanswered == 0


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_what_is_killed_comes_back_and_costs_no_money(running: Servers, tmp_path: Path) -> None:
    chosen = [fault for fault in FAULTS if fault.name in DRILLED]
    assert len(chosen) == len(DRILLED)
    folder, quiet = tmp_path / "platform", Console(quiet=True)
    report = asyncio.run(drill.run(folder, running, chosen, 20.0, Traffic(4, PATIENT), quiet))
    assert report.ok, report
    assert [one.fault for one in report.drills] == [fault.name for fault in chosen]
    assert report.billing_acknowledged > 50
