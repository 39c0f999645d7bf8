"""JSON logs on standard error, one line an event, through structlog."""

import logging
import sys
from typing import Any, TextIO, cast

import structlog

from dsp.kernel import metrics


def configure(component: str, level: str = "info") -> None:
    """Set up logging for one process; every line carries `component`."""
    stream = cast(TextIO, _Lenient())
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
    """Standard error; a line that cannot be written is counted: what happens to the log happens to nobody else."""

    def write(self, text: str) -> None:
        """Write a line, or lose it."""
        try:
            sys.stderr.write(text)
        except OSError:
            metrics.LOG_LINES_LOST.inc()

    def flush(self) -> None:
        """Write what is buffered, or lose it."""
        try:
            sys.stderr.flush()
        except OSError:
            metrics.LOG_LINES_LOST.inc()


def get(name: str) -> Any:
    """Return a logger whose lines carry `logger=name`."""
    return structlog.get_logger().bind(logger=name)
