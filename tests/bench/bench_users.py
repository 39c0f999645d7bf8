"""What remembered users cost: microseconds of a request's part in them, the memory of 200,000 of ten impressions, and
what a look-up on Valkey costs the bidder, alone and of eight that leave together.

Run it by hand: python tests/bench/bench_users.py. It prints one JSON document: processor time, the best of many rounds.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import process_time_ns

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from bidder.patience import at_most
from bidder.pending import PendingExposures
from deploy.dev.valkey import Valkey, program
from dsp.cache.local import LocalUserStore
from dsp.cache.redis import RedisUserStore
from dsp.catalog.terms import FrequencyCap
from dsp.catalog.user import Exposure, UserRecord
from dsp.frequency.rule import CapBook, capped
from dsp.kernel.ids import new_id
from models.features.encode import user_values

NOW_MS = 1_750_000_000_000
USERS, EACH = 200_000, 10
CAPS = [FrequencyCap(impressions=3, window_seconds=3_600), FrequencyCap(impressions=10, window_seconds=86_400)]
#: Every second line item and campaign has two caps, and every tenth advertiser.
BOOK = CapBook(*(dict.fromkeys(range(1, size, step), CAPS) for size, step in ((50_001, 2), (2_001, 2), (301, 10))))


def exposure(random: Random, at_ms: int) -> Exposure:
    return Exposure(new_id(at_ms), at_ms, random.randint(1, 300), random.randint(1, 2_000), random.randint(1, 50_000))


def best_us(work: Callable[[str], object], keys: list[str]) -> float:
    took = []
    for _ in range(60):
        began = process_time_ns()
        for _ in range(10):
            for key in keys:
                work(key)
        took.append((process_time_ns() - began) / 10 / len(keys))
    return round(min(took) / 1e3, 2)


def request_us(shown: int, outstanding: int) -> float:
    """Return what a request of a known user spends on the record, its caps and its features."""
    random, users, pending = Random(1), LocalUserStore(Path("never-opened.db")), PendingExposures(10**9, 10**6)
    keys = [f"{random.getrandbits(128):032x}" for _ in range(20)]
    for key in keys:
        for _ in range(shown):
            users.expose(key, exposure(random, NOW_MS - random.randrange(86_400_000)))
        for _ in range(outstanding):
            pending.add(key, exposure(random, NOW_MS))

    def work(key: str) -> None:
        user = pending.merged(key, users.get(key), NOW_MS) or UserRecord()
        capped(user.exposures, BOOK, NOW_MS)
        user_values(user, NOW_MS)

    return best_us(work, keys)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4_096 / 1e6


def memory_mb() -> float:
    random, users, before = Random(2), LocalUserStore(Path("never-opened.db")), resident_mb()
    for number, at in product(range(USERS), range(EACH)):
        users.expose(f"{number:032x}", exposure(random, NOW_MS + 1_000 * at))
    return round(resident_mb() - before)


async def server_us(url: str) -> dict[str, float]:
    random, users, found = Random(3), RedisUserStore(url), {}
    keys = [f"{number:032x}" for number in range(8)]
    await users.end_replay({0: 1})
    for key, number in product(keys, range(EACH)):
        await users.expose(key, exposure(random, NOW_MS + number))
    for count in (1, len(keys)):
        took = []
        for _ in range(60):
            began = process_time_ns()
            for _ in range(30):
                await asyncio.gather(*(at_most(1_000.0, users.get(key)) for key in keys[:count]))
            took.append((process_time_ns() - began) / 30 / count)
        found[str(count)] = round(min(took) / 1e3, 1)
    await users.close()
    return found


def on_server() -> dict[str, float]:
    with TemporaryDirectory(prefix="dsp-bench-") as folder:
        valkey = Valkey(program(), Path(folder))
        valkey.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(server_us(valkey.url))
        finally:
            valkey.stop()


if __name__ == "__main__":
    request = {f"{shown}+{bids}": request_us(shown, bids) for shown, bids in product((0, 1, 10, 60), (0, 1))}
    told = {"users": USERS, "impressions_each": EACH, "memory_mb": memory_mb()}
    print(json.dumps({"request_us": request, "server_us": on_server(), **told}))
