"""What a snapshot costs a bidder that serves it: the memory of a process before and after it was compiled."""

import subprocess
import sys
from pathlib import Path

from dsp.snapshot import codec
from loadtest.bids.catalogue import Mix, catalogue

LINE_ITEMS = 2_000
#: 50,000 such line items then take no more than 75 MB; as objects they took 220.
BYTES_MAX = 1_500

_PROGRAM = """
import sys
from pathlib import Path
from bidder.compiling import Compiler

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096

data, compile = Path(sys.argv[1]).read_bytes(), Compiler()
served = compile(data)
before = resident()
del served
kept = [compile(data) for _ in range(3)]
print((resident() - before) / (len(kept) - 1) / len(kept[0].snapshot.line_items))
"""


def test_a_line_item_takes_less_than_1500_bytes(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(codec.encode(catalogue([], LINE_ITEMS, Mix.BID), "v1", 0))
    command = [sys.executable, "-c", _PROGRAM, str(blob)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(told.stdout) < BYTES_MAX
