"""Whether the bidder wants traffic: what /ready, /readyz and the drain agree on."""

from bidder.outbox import Outbox
from bidder.state import Serving


class Readiness:
    """Ready means: a snapshot is loaded, the log takes records, and nobody has asked for the end."""

    def __init__(self, serving: Serving, outbox: Outbox) -> None:
        self._serving = serving
        self._outbox = outbox
        self.stopping = False  # asked to stop: not ready any more, requests are still auctioned
        self.draining = False  # answers are "no" and close their connections

    def ready(self) -> bool:
        """Return whether traffic is welcome."""
        return not self.stopping and self._serving.current is not None and self._outbox.healthy()

    def word(self) -> str:
        """Return one word for people."""
        if self.stopping:
            return "draining"
        if self._serving.current is None:
            return "starting"
        return "ready" if self._outbox.healthy() else "log-away"
