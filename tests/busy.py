"""How busy the machine is: a promise in seconds is for a machine that has the time to keep it."""

import time

_WORK_SECONDS = 0.05


def slowdown() -> float:
    """Return how many times as long as on an idle machine a little work takes just now: 1.0, or more."""
    began, began_cpu = time.perf_counter(), time.thread_time()
    while (worked := time.thread_time() - began_cpu) < _WORK_SECONDS:
        pass
    return max(1.0, (time.perf_counter() - began) / worked)
