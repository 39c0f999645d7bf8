"""Loopback ports for what a test starts, which nobody else takes before it listens.

The system gives out ports by itself, to connections and to whoever asks for any, from a range of its own. These are
below it, and each process of a test run draws from its own part of them.
"""

import os
import random
import socket

from loadtest.platform import Ports

FIRST, END = 10_000, 32_000
_draw = random.SystemRandom()
_given: set[int] = set()


def free_port(count: int = 1) -> int:
    """Return a port, or the first of `count` in a row, that nobody listens on and no test here was given before."""
    share = (END - FIRST) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = FIRST + share * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        first = _draw.randrange(mine, mine + share - count)
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def platform_ports(bidders: int = 1) -> Ports:
    """Return where a platform may listen; each bidder has two admin ports, in a row."""
    return Ports(free_port(), free_port(), free_port(2 * bidders), free_port())
