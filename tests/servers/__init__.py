"""Real servers for tests, one file each: where its program is found, how it starts on a free port, how it ends."""

import os
from typing import NoReturn

import pytest

from tests.servers.ports import free_port, platform_ports

__all__ = ["absent", "free_port", "platform_ports"]

_ASKED = "DSP_TEST_SERVERS"
#: Taken out of the environment, which the processes under test inherit: they refuse variables that are no setting.
_KEPT = "TEST_SERVERS"
if _ASKED in os.environ:
    os.environ[_KEPT] = os.environ.pop(_ASKED)


def absent(reason: str) -> NoReturn:
    """Skip the test, or fail it where `DSP_TEST_SERVERS=required` says that every server is to be here."""
    if os.environ.get(_KEPT) == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
