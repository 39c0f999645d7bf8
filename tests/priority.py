"""Whether a bidder that a test starts may have its event loop run before others."""

import os
import sys


def may_precede() -> bool:
    """Return whether a process of ours may lower its nice from 0 to -10."""
    if sys.platform != "linux" or os.nice(0) != 0:
        return False
    import resource

    return os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 30
