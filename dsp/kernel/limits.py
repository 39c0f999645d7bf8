"""What the operating system allows a process, and what a process allows others."""

import os
import resource

#: Nothing for those who are neither the owner nor of its group, and for the group nothing to write.
_UMASK = 0o027


def hide_files() -> None:
    """Let no stranger on this host read what the process writes: users, their requests, and what is paid for them."""
    os.umask(os.umask(_UMASK) | _UMASK)


def allow_files(wanted: int) -> int:
    """Let this process have so many files and sockets open, as far as its hard limit goes; return how many it may.

    Many systems start processes with a soft limit of 1,024, which is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
