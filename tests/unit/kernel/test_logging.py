"""The log: a disk that takes no more of it stops nobody."""

import errno
import io
import sys

import pytest

from dsp.kernel import logging, metrics


class FullDisk(io.StringIO):
    """Takes nothing while it is full."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, lost = FullDisk(), metrics.LOG_LINES_LOST._value.get()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.configure("test")
    logging.get(__name__).error("one")
    logging.get(__name__).error("two", fault="why")
    assert metrics.LOG_LINES_LOST._value.get() - lost == 2
    stream.full = False
    logging.get(__name__).error("three")
    assert '"event": "three"' in stream.getvalue()
