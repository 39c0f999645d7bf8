"""What remembered users cost: the memory of a process of its own, before and after it has heard of them."""

import subprocess
import sys

USERS, EXPOSURES = 20_000, 10
#: 200,000 such users then take no more than 150 MB.
BYTES_MAX = 750

_PROGRAM = """
import hashlib, sys
from pathlib import Path
from dsp.cache.local import LocalUserStore
from dsp.catalog.user import Exposure
from dsp.kernel.ids import new_id

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

users, exposures = int(sys.argv[1]), int(sys.argv[2])
store = LocalUserStore(Path("never-opened.db"))
before = resident()
for number in range(users):
    key = hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()
    for at in range(exposures):
        now_ms = 1_750_000_000_000 + 1_000 * at
        store.expose(key, Exposure(new_id(now_ms), now_ms, 1_000 + at, 2_000 + number % 999, 50_000 + number % 9_999))
    store._changed.clear()  # what a save does
print((resident() - before) / users)
"""


def test_a_user_of_ten_impressions_takes_less_than_750_bytes() -> None:
    command = [sys.executable, "-c", _PROGRAM, str(USERS), str(EXPOSURES)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 28 * EXPOSURES < float(told.stdout) < BYTES_MAX
