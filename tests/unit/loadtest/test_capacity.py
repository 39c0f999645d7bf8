"""The pieces of `python -m loadtest capacity` and `soak`: the open loop, the search, the verdicts."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bidder.app import QUIET_MS
from dsp.snapshot.codec import SNAPSHOT_BLOB
from loadtest.bids import supply
from loadtest.capacity.drain import CONNECTIONS_MAX, connections
from loadtest.capacity.events import SNAPSHOT, Events
from loadtest.capacity.open import Open, Step
from loadtest.capacity.run import keeps, middle, search, show
from loadtest.platform import PlatformError
from loadtest.soak import Sample, judged
from tests.unit.loadtest.test_bids import PROFILE, bodies
from tests.waiting import eventually


@contextmanager
def server(stall_at: int = -1, stall_seconds: float = 0.0) -> Iterator[int]:
    """Answer every request of one connection; once, do nothing for a while before it."""

    def serve(door: socket.socket) -> None:
        with door, door.accept()[0] as client:
            count = 0
            while client.recv(65_536):
                if count == stall_at:
                    time.sleep(stall_seconds)
                client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                count += 1

    door = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(door,), daemon=True)
    thread.start()
    yield door.getsockname()[1]
    thread.join(5.0)


def test_a_stall_delays_all_that_was_due_in_it() -> None:
    with (
        server(stall_at=5, stall_seconds=0.5) as port,
        closing(Open(port, 1, supply.prepare(bodies(3), PROFILE))) as load,
    ):
        step = load.step(100.0, 1.0)
    # A closed loop would have seen one slow answer of some dozens; here half a second's worth of requests waited.
    assert 60 < len(step.latencies_ms) < 150
    assert sum(latency > 100.0 for latency in step.latencies_ms) > 25
    assert step.late > 10
    assert max(step.latencies_ms) > 450.0


def test_the_same_seed_offers_the_same_arrivals_and_about_the_rate() -> None:
    counts = []
    for _ in range(2):
        with server() as port, closing(Open(port, 1, supply.prepare(bodies(3), PROFILE), seed=5)) as load:
            counts.append(len(load.step(400.0, 0.5).latencies_ms))
    assert counts[0] == counts[1]
    assert 150 < counts[0] < 250


def test_a_server_that_closes_is_a_fault() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        closing(Open(door.getsockname()[1], 1, supply.prepare(bodies(1), PROFILE))) as load,
        door.accept()[0] as client,
    ):
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(PlatformError):
            load.step(100.0, 0.1)


@pytest.mark.parametrize("capacity", [0.0, 70.0, 333.0, 1_100.0])
def test_the_search_finds_where_the_service_level_breaks(capacity: float) -> None:
    def offer(rate: float) -> Step:
        return Step(rate, 1.0, latencies_ms=[5.0 if rate <= capacity else 50.0] * 100)

    found, steps = search(offer, 1_100.0, 20.0)
    assert len(steps) == 7
    assert capacity - 1_100.0 / 2**7 <= found <= capacity
    assert all(keeps(step, 20.0) == (step.rate <= capacity) for step in steps)


def test_late_answers_break_the_service_level_whatever_the_p99() -> None:
    assert keeps(Step(1.0, 1.0, late=1, latencies_ms=[1.0] * 1_000), 20.0)
    assert not keeps(Step(1.0, 1.0, late=2, latencies_ms=[1.0] * 1_000), 20.0)


def test_a_fast_no_keeps_no_service_level() -> None:
    """A bidder that sheds is in time whatever is offered: its p99 says nothing of what it can decide."""
    assert keeps(Step(1.0, 1.0, shed=1, latencies_ms=[1.0] * 1_000), 20.0)
    assert not keeps(Step(1.0, 1.0, shed=400, latencies_ms=[1.0] * 1_000), 20.0)
    assert not keeps(Step(1.0, 1.0, late=1, shed=1, latencies_ms=[1.0] * 1_000), 20.0)


def test_the_middle_step_is_told_with_the_late_answers_of_all() -> None:
    told = middle([Step(1.0, 1.0, late=late, latencies_ms=[ms] * 9) for ms, late in ((9.0, 0), (2.0, 3), (5.0, 1))])
    assert told["p50"] == told["p99"] == 5.0
    assert (told["late"], told["p99s"]) == (4, [2.0, 5.0, 9.0])


def test_the_report_is_printed_whether_or_not_its_picture_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Step(70.0, 1.0, lags_ms=[0.0], latencies_ms=[5.0]).report()
    report = {"capacity_rps": 70.0, "slo_p99_ms": 20.0, "line_items": 9, "mix": "bid", "steps": [step]}
    drawn = tmp_path / "new" / "capacity.png"
    assert show(report, drawn, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert drawn.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OSError, match="capacity"):
        show(report, drawn / "a.png", as_json=False)  # below a file
    assert "capacity 70 requests/s" in capsys.readouterr().out


def samples(megabytes: list[float]) -> list[Sample]:
    return [Sample(float(number), value, 5, 20) for number, value in enumerate(megabytes)]


def test_memory_that_grows_after_the_warm_up_is_not_flat() -> None:
    filling = [100.0 + 5 * number for number in range(20)]
    assert judged(samples(filling + [200.0 + number % 2 for number in range(40)]))["flat"]
    leak = judged(samples(filling + [200.0 + number for number in range(40)]))
    assert not leak["flat"]
    assert leak["slope_mb_per_minute"] == pytest.approx(60.0, rel=0.1)
    opened = [*samples([200.0] * 59), Sample(59.0, 200.0, 5, 500)]
    assert not judged(opened)["flat"]


def test_a_drain_hears_of_every_connection_before_it_takes_the_load_for_gone() -> None:
    """At a few requests a second most of many connections would be closed without a word."""
    for rate in (5.0, 33.0, 500.0, 5_000.0):
        turn_ms = connections(rate) / rate * 1_000
        assert turn_ms <= QUIET_MS / 2
    assert connections(0.1) == 1
    assert connections(5_000.0) == CONNECTIONS_MAX


def test_snapshots_are_made_before_the_load_and_only_moved_under_it(tmp_path: Path) -> None:
    made: list[str] = []

    def encoded(version: str) -> bytes:
        made.append(version)
        return version.encode()

    blobs = tmp_path / "blobs"
    blobs.mkdir()
    platform = SimpleNamespace(data_dir=tmp_path, ports=SimpleNamespace(admin=0))
    bench: Any = SimpleNamespace(platform=platform, models=tmp_path, encoded=encoded)
    events = Events(bench, [])
    assert made == ["bench-0", "bench-1"]
    with events.during(SNAPSHOT):
        eventually((blobs / SNAPSHOT_BLOB).exists)
    assert (blobs / SNAPSHOT_BLOB).read_text() in made
    assert len(made) == 2
