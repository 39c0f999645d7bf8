"""The processor goes to the event loop first, before the process's own threads that write to disk and load models."""

import os
import sys


def precede(nice: int) -> int:
    """Have this thread, the loop's, run at `nice` where the system lets it (setpriority(2)); return what it runs at.

    Threads and children that it starts later begin at 0 again. A priority that was given to the process from outside
    stays as it is.
    """
    current = os.getpriority(os.PRIO_PROCESS, 0)
    if sys.platform != "linux" or current != 0:  # elsewhere a priority is the whole process's
        return current
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        return current
    os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    return nice
