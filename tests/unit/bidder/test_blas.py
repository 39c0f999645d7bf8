"""numpy works in the thread that asks it."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os
import bidder
import numpy as np
square = np.ones((512, 512), dtype=np.float32)
square @ square
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_bidder_has_no_threads_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    found = subprocess.run((sys.executable, "-c", _PROGRAM), capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "1"
