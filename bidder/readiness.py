"""Whether the bidder wants traffic: what /ready, /readyz and the drain agree on."""

from bidder.outbox import Outbox
from bidder.state import Serving


class Readiness:
    """Ready means: the ports are open, a snapshot is loaded, the log takes records, and nobody asked for the end."""

    def __init__(self, serving: Serving, outbox: Outbox) -> None:
        self._serving = serving
        self._outbox = outbox
        self.listening = False  # every port is open
        self.stopping = False  # asked to stop: not ready any more, requests are still auctioned
        self.draining = False  # answers are "no" and close their connections

    def ready(self) -> bool:
        """Return whether traffic is welcome."""
        return self.word() == "ready"

    def word(self) -> str:
        """Return one word for people."""
        if self.stopping:
            return "draining"
        if not self.listening or self._serving.current is None:
            return "starting"
        return "ready" if self._outbox.healthy() else "log-away"
