"""Keeps the garbage collector of a load generator from delaying what it measures."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no cycles meanwhile: a pass over what a driver remembers of a minute's traffic takes 100 ms and more.

    Answers that lie in its sockets for so long would count as late.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
