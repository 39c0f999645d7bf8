"""JSON logs on standard error, one line an event, through structlog."""

import logging
import sys
from typing import Any, TextIO, cast

import structlog

from dsp.kernel import metrics


def configure(component: str, level: str = "info") -> None:
    """Set up logging for one process; every line carries `component`."""
    stream = cast(TextIO, _Lenient(sys.stderr))
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


class _Lenient:
    """A stream that counts lines which cannot be written: what happens to the log must happen to nobody else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write a line, or lose it."""
        try:
            self._stream.write(text)
        except OSError:
            metrics.LOG_LINES_LOST.inc()

    def flush(self) -> None:
        """Write what is buffered, or lose it."""
        try:
            self._stream.flush()
        except OSError:
            metrics.LOG_LINES_LOST.inc()


def get(name: str) -> Any:
    """Return a logger whose lines carry `logger=name`."""
    return structlog.get_logger().bind(logger=name)
