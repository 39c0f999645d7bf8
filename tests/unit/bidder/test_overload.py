"""Twice the load that can be answered, on a clock of its own: turns of an event loop, and admission as it is."""

import random
from collections import deque
from typing import NamedTuple

import pytest

from bidder.admission import Queue

MS = 1_000_000
TMAX_NS = 100 * MS


class Fared(NamedTuple):
    good: int = 0  # decided in time
    late: int = 0
    refused: int = 0


def served(load: float, seconds: float, work_ns: int, no_ns: int, admits: bool = True) -> Fared:
    """Offer `load` times what can be decided; a decision takes `work_ns` and a refusal `no_ns`."""
    queue, draw = Queue(), random.Random(1)
    now_ns, due_ns = 10_000 * MS, 10_000.0 * MS
    end_ns = now_ns + int(seconds * 1_000) * MS
    waiting: deque[float] = deque()
    good = late = refused = 0
    while now_ns < end_ns:
        while due_ns <= now_ns:
            waiting.append(due_ns)
            due_ns += draw.expovariate(load / work_ns)
        if not waiting:
            now_ns = int(due_ns) + 1  # the loop sleeps
            continue
        began_ns, turn = now_ns, waiting
        waiting = deque()
        for came_ns in turn:
            if admits and queue.overdue(began_ns, now_ns):
                now_ns += no_ns
                refused += 1
            else:
                now_ns += work_ns
                good += now_ns - came_ns <= TMAX_NS
                late += now_ns - came_ns > TMAX_NS
    return Fared(good, late, refused)


@pytest.mark.parametrize(("load", "work_us"), [(1.5, 200), (2.0, 200), (2.0, 500), (4.0, 500), (2.0, 2_000)])
def test_goodput_stays_near_capacity(load: float, work_us: int) -> None:
    found = served(load, 4.0, work_us * 1_000, 20_000)
    capacity = 4.0 * 1e6 / work_us
    # What the refusals take cannot be decided in: 20 us each of what is too much.
    most = 1.0 - max(0.0, load - 1.0) * 20 / work_us
    assert found.good > 0.85 * most * capacity
    assert found.late < 0.03 * (found.good + found.late)


def test_without_it_nothing_is_in_time() -> None:
    found = served(2.0, 4.0, 500_000, 20_000, admits=False)
    assert found.good < 0.05 * (found.good + found.late)


def test_below_capacity_nobody_is_refused() -> None:
    assert served(0.8, 4.0, 500_000, 20_000).refused == 0
