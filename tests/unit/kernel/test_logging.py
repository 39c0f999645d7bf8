"""The log: a disk that takes no more of it stops nobody."""

import errno
import io
import json
import logging as standard
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


def test_what_libraries_say_is_a_line_of_json_whatever_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.configure("test")
    try:
        raise ValueError('two\nlines, and a "quotation"')
    except ValueError:
        standard.getLogger("asyncio").exception('Task of "%s" was never retrieved', "x")
    standard.getLogger("aiokafka").info("too little to be told")
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"], said["component"]) == ("error", "asyncio", "test")
    assert said["event"] == 'Task of "x" was never retrieved'
    assert 'ValueError: two\nlines, and a "quotation"' in said["exception"]
