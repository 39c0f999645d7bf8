"""Samples of requests: which are kept, and how many wait."""

import dataclasses
from collections.abc import Callable
from typing import Any

from bidder.journal import Journal
from dsp.events.topics import Topic
from tests.integration.bidder.world import bid_request
from tests.unit.bidder.markets import CONFIG, Market


class Offered:
    """An outbox that keeps which auctions' requests it is offered."""

    def __init__(self) -> None:
        self.sampled: list[str] = []

    def offer(self, topic: Topic, key: str, encode: Callable[[], bytes]) -> bool:
        if topic is Topic.REQUESTS:
            self.sampled.append(key)
        return True


async def _sampled(key: bytes) -> list[str]:
    market, offered = Market(), Offered()
    journal: Any = Journal(offered, key, 0.25)  # type: ignore[arg-type]
    market.auctioneer = dataclasses.replace(market.auctioneer, journal=journal)
    for number in range(400):
        await market.ask(bid_request(str(number)))
    return offered.sampled


async def test_nobody_who_lacks_the_key_can_tell_which_requests_are_kept() -> None:
    first, second = await _sampled(b"first"), await _sampled(b"second")
    assert first == await _sampled(b"first")
    assert 60 < len(first) < 140
    assert 60 < len(second) < 140
    assert len({*first} & {*second}) < 50  # by chance 25


async def test_of_one_id_sent_again_and_again_a_sample_is_kept() -> None:
    market, offered = Market(), Offered()
    journal: Any = Journal(offered, b"key", 0.25)  # type: ignore[arg-type]
    market.auctioneer = dataclasses.replace(market.auctioneer, journal=journal)
    for _ in range(400):
        await market.ask(bid_request("1"))
        market.clock.advance(1)
    assert 60 < len(offered.sampled) < 140


async def test_samples_have_a_bound_of_their_own() -> None:
    """Each may be as large as a body: as many as decisions may wait, they were 13 gigabytes."""
    outbox = Market().outbox
    for _ in range(CONFIG.outbox_requests_max):
        assert outbox.offer(Topic.REQUESTS, "k", lambda: b"sample")
    assert not outbox.offer(Topic.REQUESTS, "k", lambda: b"one more")
    assert outbox.offer(Topic.DECISIONS, "k", lambda: b"decision")
