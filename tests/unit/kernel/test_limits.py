"""How many files a process may have open."""

import resource
import subprocess
import sys

SCRIPT = """
import resource
from dsp.kernel.limits import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
print(allow_files(32), allow_files(128), allow_files(1_000), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_as_far_as_the_hard_one_goes() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "64 128 256 (256, 256)\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
