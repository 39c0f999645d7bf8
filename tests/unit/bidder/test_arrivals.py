"""Since when what is read may have waited."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from time import perf_counter_ns

import pytest
import uvloop

from bidder import arrivals
from bidder.arrivals import Arrivals
from bidder.connection import Reply, Request
from bidder.listener import Listener

MS = 1_000_000


class Turns(asyncio.SelectorEventLoop):
    """A loop that is not run: its turns end when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now_ms = 1_000
        self._soon: list[Callable[[], object]] = []
        monkeypatch.setattr(arrivals, "perf_counter_ns", lambda: self.now_ms * MS)

    def call_soon(self, callback: Callable[[], object], *_: object, **__: object) -> None:  # type: ignore[override]
        self._soon.append(callback)

    def over(self) -> int:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()
        return len(soon)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    loop = Turns(monkeypatch)
    yield loop
    loop.close()


def read(found: Arrivals, loop: Turns, work_ms: int) -> int:
    """Return how long what is read now may have waited, and work on it."""
    waited = loop.now_ms - found.read() // MS
    loop.now_ms += work_ms
    found.done()
    return waited


def test_what_wakes_the_loop_has_not_waited_and_what_is_handed_out_behind_it_has(turns: Turns) -> None:
    found = Arrivals(turns)
    # That there is a turn of several pieces is known from the second on.
    assert [read(found, turns, 10) for _ in range(4)] == [0, 0, 10, 20]
    assert turns.over() == 1
    assert [read(found, turns, 10) for _ in range(3)] == [0, 10, 20]
    assert turns.over() == 1
    turns.now_ms += 200  # it slept
    assert read(found, turns, 10) == 0


def test_a_loop_that_sleeps_after_each_piece_is_never_asked_for_the_end_of_its_turn(turns: Turns) -> None:
    found = Arrivals(turns)
    for _ in range(5):
        assert read(found, turns, 1) == 0
        turns.now_ms += 5
    assert turns.over() == 0


def test_requests_behind_slow_ones_know_that_they_waited() -> None:
    waited_ms: list[float] = []

    async def slow(request: Request) -> Reply:
        waited_ms.append((perf_counter_ns() - request.arrived_ns) / MS)
        time.sleep(0.03)  # noqa: ASYNC251 - the loop is what has to be busy
        return Reply(204)

    async def serve() -> None:
        listener = Listener(slow, lambda: None, 1_000, 5.0, 1.0)
        await listener.listen("127.0.0.1", 0, False)
        clients = [socket.create_connection(("127.0.0.1", listener.port), 5.0) for _ in range(4)]
        await asyncio.sleep(0.1)
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        for client in clients:
            assert client.recv(4_096).startswith(b"HTTP/1.1 204")
            client.close()
        await listener.close(1.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    assert waited_ms[0] < 30
    assert waited_ms[3] > 55
    assert waited_ms[1:] == sorted(waited_ms[1:])
