"""JSON logs on standard error, one line an event, through structlog.

A thread writes them: a pipe that nobody reads, a terminal that is held and a slow disk keep nobody waiting.
"""

import atexit
import logging
import os
import sys
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TextIO, cast

import structlog

from dsp.kernel import metrics

#: More lines do not wait to be written; they are counted.
LINES_MAX = 1_000
#: How long the end of a process waits for its last lines to be written.
LAST_LINES_SECONDS = 1.0


def configure(component: str, level: str = "info") -> None:
    """Set up logging for one process; every line carries `component`."""
    _writer.start()
    stream = cast(TextIO, _writer)
    told: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*told, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    # Libraries that use the standard library's logging report only what needs a person.
    of_libraries = logging.StreamHandler(stream)
    of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *told],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[of_libraries], force=True)


class _Writer:
    """Writes lines to standard error in a thread; one that cannot be written is counted, and nobody hears of it."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[str | Event] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread; harmless where it runs."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.drain, LAST_LINES_SECONDS)

    def write(self, text: str) -> None:
        """Queue a line, or lose it."""
        if self._lines.qsize() < LINES_MAX:
            self._lines.put(text)
        else:
            metrics.LOG_LINES_LOST.inc()

    def flush(self) -> None:
        """Wait for nothing: loggers ask for it after each line."""

    def drain(self, seconds: float) -> bool:
        """Wait until what is queued now has been written; return whether it has been within the time."""
        written = Event()
        self._lines.put(written)
        return written.wait(seconds)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, Event):
                line.set()
                continue
            try:
                _put(line.encode(errors="backslashreplace"))
            except (OSError, AttributeError):  # the latter where standard error was closed from the start
                metrics.LOG_LINES_LOST.inc()


def _put(line: bytes) -> None:
    # Past sys.stderr's own buffer: an end of the process would wait for a lock that a stuck write holds, and abort.
    descriptor = sys.stderr.fileno()
    while line:
        line = line[os.write(descriptor, line) :]


_writer = _Writer()


def drain(seconds: float = LAST_LINES_SECONDS) -> bool:
    """Wait until all lines so far are written; return whether they are within the time."""
    return _writer.drain(seconds)


def get(name: str) -> Any:
    """Return a logger whose lines carry `logger=name`."""
    return structlog.get_logger().bind(logger=name)
