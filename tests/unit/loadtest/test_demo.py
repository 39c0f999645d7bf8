"""The demo says how long a model took from its registration into the bidder, not from the end of its training."""

import asyncio
import io
from pathlib import Path

from rich.console import Console

from dsp import registry
from loadtest.demo import Demo, Options
from loadtest.platform import Metrics


class Bidder:
    """Says that it uses a version from the third scrape on; training, which has registered it, ends then."""

    def __init__(self, data_dir: Path, version: str) -> None:
        self.data_dir = data_dir
        self.scrapes = 0
        self.used = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._version = version

    def metrics(self) -> Metrics:
        self.scrapes += 1
        if self.scrapes < 3:
            return Metrics()
        self._loop.call_soon_threadsafe(self.used.set)
        return Metrics({("dsp_model_info", (("version", self._version),)): 1.0})


def demo(data_dir: Path) -> Demo:
    return Demo(Options(data_dir, 1, 100.0, 1.0), Console(file=io.StringIO()))


async def test_a_swap_is_timed_from_the_registration_though_training_goes_on(tmp_path: Path) -> None:
    version = registry.publish(tmp_path / "models", {"model_card.md": b"."}, {"built_at_ms": 0})
    registry.set_alias(tmp_path / "models", "champion", version)
    bidder = Bidder(tmp_path, version)

    async def train() -> float:
        await bidder.used.wait()
        return 9.0

    async with asyncio.timeout(30.0):
        swap = await demo(tmp_path)._swapped(bidder, asyncio.create_task(train()))  # type: ignore[arg-type]
    assert swap is not None
    assert swap.version == version
    assert swap.training_seconds == 9.0
    assert bidder.scrapes == 3
    assert swap.seconds >= 0.2  # it was looked for three times, a tenth of a second apart


async def test_training_that_registers_nothing_brings_no_swap(tmp_path: Path) -> None:
    bidder = Bidder(tmp_path, "")
    training = asyncio.create_task(asyncio.sleep(0.0, 9.0))
    async with asyncio.timeout(30.0):
        assert await demo(tmp_path)._swapped(bidder, training) is None  # type: ignore[arg-type]
    assert not bidder.scrapes
