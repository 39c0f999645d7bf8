"""How a rolling restart looks to an exchange: of two bidders that share a port one is asked to end.

Both run on the core that is the servers', and the one that takes over has been started before: starting takes processor
time, which on a machine of its own, or on the core of the one that left, would not be the other's.
"""

from contextlib import closing

from loadtest.bids.run import Setting
from loadtest.capacity.open import Open, Step
from loadtest.platform import PlatformError, free_ports

#: So many at most, and so few that each has its turn this soon: a bidder that drains takes half a second without a
#: request (bidder.app.QUIET_MS) for the end, and closes those that it could not tell to.
CONNECTIONS_MAX, _TURN_SECONDS = 64, 0.2
_WARM_UP_SECONDS = 4.0
#: A drain takes bidder.drain_wait_ms, and then as long as there are connections, up to bidder.drain_timeout_ms.
_SECONDS_MIN = 8.0


def connections(rate: float) -> int:
    """Return over how many connections to offer a rate, requests per second."""
    return min(CONNECTIONS_MAX, max(1, int(rate * _TURN_SECONDS)))


def step(setting: Setting, rate: float, seconds: float) -> Step:
    """Offer a rate while one of two bidders drains, connecting anew where an answer says `close`.

    Raises:
        OSError: a connection was refused.
        PlatformError: a request got no answer, a bidder did not start, or the one that was to end did not, in order.
    """
    port = free_ports().bid
    leaves, stays = (setting.bench.sharing(port, holder) for holder in ("leaves", "stays"))
    with (
        setting.bench.process(leaves, setting.core) as leaving,
        setting.bench.process(stays, setting.core),
        closing(Open(port, connections(rate), setting.supply)) as load,
    ):
        load.step(rate, _WARM_UP_SECONDS)
        leaving.terminate()
        found = load.step(rate, max(seconds, _SECONDS_MIN))
        if leaving.poll() != 0:
            raise PlatformError(f"a bidder under load did not drain in order\n{leaves.tail('bidder.log')}")
    return found
