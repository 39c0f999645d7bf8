"""One host: which processes make the platform (processes.py), and what starts, watches and stops them (supervisor.py).

They are named by module, so it imports none of them.
"""

from dsp.supervise.processes import CHECKS, UpConfig, platform
from dsp.supervise.supervisor import LOCK_FILE, STATUS_FILE, Child, Patience, refused, run

__all__ = ["CHECKS", "LOCK_FILE", "STATUS_FILE", "Child", "Patience", "UpConfig", "platform", "refused", "run"]
