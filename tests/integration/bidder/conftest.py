"""One bidder process shared by the tests of a module, where they do it no harm."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.bidder.world import World, catalogue, world
from tests.waiting import until


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bidder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A bidder process that has a snapshot and leased money."""
    async with world(tmp_path_factory.mktemp("bidder")) as made:
        await made.publish(catalogue())
        await made.start()
        await until(made.ready)
        await until(made.bidding)
        yield made
