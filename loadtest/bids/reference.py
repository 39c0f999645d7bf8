"""The yardstick, run as a process of its own: the bid port's HTTP layer and decoder, and a constant for an answer."""

import asyncio
import gc
import sys

from bidder.app import GC_THRESHOLDS
from bidder.config import BidderConfig
from bidder.connection import Reply, Request
from bidder.listener import Listener
from dsp.kernel.errors import InputError
from dsp.kernel.lifecycle import Lifecycle, loop_factory
from dsp.openrtb.codec import decode_request

_NO = Reply(204, b"x-openrtb-version: 2.6\r\n")


async def _answer(request: Request) -> Reply:
    try:
        decode_request(request.body)
    except InputError:
        return Reply(400)
    return _NO


def _broken() -> None:
    """Count nothing: only our own requests come here."""


async def serve(port: int) -> None:
    """Answer on a port until told to stop."""
    settings, lifecycle = BidderConfig(), Lifecycle()
    bounds = settings.body_bytes_max, settings.keepalive_seconds, settings.request_seconds_max
    listener = Listener(_answer, _broken, *bounds)
    await lifecycle.start(listener.listen("127.0.0.1", port, False), lambda: listener.close(1.0))
    gc.freeze()  # as the bidder does
    gc.set_threshold(*GC_THRESHOLDS)
    await lifecycle.wait_for_stop()
    await lifecycle.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(int(sys.argv[1])))
