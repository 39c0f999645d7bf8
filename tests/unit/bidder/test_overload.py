"""Twice the load that can be answered, on a clock of its own: turns of an event loop, and admission as it is."""

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from bidder.admission import Queue
from bidder.cohort import COHORT_MAX

MS = 1_000_000
BEGAN_NS = 10_000 * MS
TMAX_NS = 200 * MS
CONNECTIONS = 256
#: The exchange is one process as well: taking an answer and sending the next request keeps it for so long.
SEND_NS = 80_000


class Fared(NamedTuple):
    good: int = 0  # decided in time
    late: int = 0
    refused: int = 0
    slowest_ms: float = 0.0  # of the second half, which has not seen the load begin


class Exchange:
    """Sends requests that are due over a bounded number of connections: without a free one they wait on its side."""

    def __init__(self, rate: float, end_ns: int) -> None:
        draw, at = random.Random(1), float(BEGAN_NS)
        self._due: deque[int] = deque()
        while (at := at + draw.expovariate(rate)) < end_ns:
            self._due.append(int(at))
        self._free, self._ready_ns = CONNECTIONS, 0
        self._sent: deque[tuple[int, int]] = deque()  # when, and since when it was due

    def next_ns(self) -> int | None:
        """Return when there is something to read; None at the end."""
        return self._sent[0][0] if self._sent else max(self._due[0], self._ready_ns) if self._due else None

    def read(self, now_ns: int) -> list[int]:
        """Return since when what has come by now was due."""
        self._send(now_ns)
        found = []
        while self._sent and self._sent[0][0] <= now_ns:
            found.append(self._sent.popleft()[1])
        return found

    def answered(self, count: int, now_ns: int) -> None:
        """Take the answers of a cohort, which uvloop sends at once."""
        self._send(now_ns)
        self._free += count
        self._ready_ns = max(self._ready_ns, now_ns)

    def _send(self, until_ns: int) -> None:
        while self._due and self._free and (at := max(self._due[0], self._ready_ns)) <= until_ns:
            self._ready_ns = at + SEND_NS
            self._sent.append((at, self._due.popleft()))
            self._free -= 1


def cohorts(turn: Sequence[int]) -> list[Sequence[int]]:
    """Return what is let in or refused together, before the work of any of it is done."""
    return [turn[start : start + COHORT_MAX] for start in range(0, len(turn), COHORT_MAX)]


def served(load: float, seconds: float, work_ns: int, no_ns: int, queue: Queue | None = None) -> Fared:
    """Offer `load` times what can be decided; a decision takes `work_ns` and a refusal, HTTP and all, `no_ns`."""
    end_ns = BEGAN_NS + int(seconds * 1_000) * MS
    exchange, now_ns = Exchange(load / work_ns, end_ns), BEGAN_NS
    good = late = refused = slowest_ns = 0
    while (at := exchange.next_ns()) is not None:
        began_ns = now_ns = max(now_ns, at)  # the loop sleeps until then
        for cohort in cohorts(exchange.read(now_ns)):
            let_in = [due_ns for due_ns in cohort if queue is None or not queue.overdue(began_ns, now_ns)]
            now_ns += len(let_in) * work_ns + (len(cohort) - len(let_in)) * no_ns
            exchange.answered(len(cohort), now_ns)
            refused += len(cohort) - len(let_in)
            good += sum(now_ns - due_ns <= TMAX_NS for due_ns in let_in)
            late += sum(now_ns - due_ns > TMAX_NS for due_ns in cohort)
            if began_ns > (BEGAN_NS + end_ns) // 2:
                slowest_ns = max(slowest_ns, *(now_ns - due_ns for due_ns in cohort))
    return Fared(good, late, refused, slowest_ns / MS)


#: Microseconds of a decision and of a refusal.
COSTS = [(350, 35), (500, 50), (900, 50), (900, 110), (2_000, 110)]


@pytest.mark.parametrize(("work_us", "no_us"), COSTS)
@pytest.mark.parametrize("load", [1.5, 2.0, 2.5])
def test_goodput_stays_near_capacity_and_nobody_is_late(load: float, work_us: int, no_us: int) -> None:
    found = served(load, 4.0, work_us * 1_000, no_us * 1_000, Queue())
    # What the refusals take cannot be decided in.
    most = (1.0 - load * no_us / work_us) / (1.0 - no_us / work_us)
    assert found.good > 0.95 * most * 4.0 * 1e6 / work_us
    assert found.late == 0
    assert found.slowest_ms < TMAX_NS / MS / 2


@pytest.mark.parametrize(("work_us", "no_us"), COSTS)
def test_at_twice_the_load_it_is_more_than_the_service_level_asks(work_us: int, no_us: int) -> None:
    found = served(2.0, 4.0, work_us * 1_000, no_us * 1_000, Queue())
    assert found.good > 0.85 * 4.0 * 1e6 / work_us


@pytest.mark.parametrize("work_ns", [500_000, 750_000, 1_200_000])
def test_clients_that_wait_for_their_answers_are_no_overload_once_a_slow_spell_is_over(work_ns: int) -> None:
    """32 of them, each with a request in every turn: none waits for as long as what begins an overload."""
    queue, now_ns, refused = Queue(), BEGAN_NS, 0
    slow_ns, calm_ns, end_ns = (BEGAN_NS + seconds * 1_000 * MS for seconds in (1, 3, 5))
    while now_ns < end_ns:
        began_ns, slower = now_ns, 3 if slow_ns <= now_ns < slow_ns + 600 * MS else 1
        for cohort in cohorts(range(32)):
            noes = sum(queue.overdue(began_ns, now_ns) for _ in cohort)
            refused += noes if now_ns > calm_ns else 0
            now_ns += slower * (noes * work_ns // 10 + (len(cohort) - noes) * work_ns)
    assert refused == 0


def test_without_it_nothing_is_in_time() -> None:
    found = served(2.0, 4.0, 500_000, 20_000)
    assert found.good < 0.1 * found.late


@pytest.mark.parametrize("load", [0.7, 0.8, 0.9])
def test_below_capacity_nobody_is_refused(load: float) -> None:
    assert served(load, 4.0, 900_000, 50_000, Queue()).refused == 0
