"""JSON logs on standard error, one line an event, through structlog."""

import logging
import sys
from typing import Any

import structlog


def configure(component: str, level: str = "info") -> None:
    """Set up logging for one process; every line carries `component`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    # Libraries that use the standard library's logging report only what needs a person.
    logging.basicConfig(
        level=logging.WARNING, format='{"level":"%(levelname)s","logger":"%(name)s","event":"%(message)s"}'
    )


def get(name: str) -> Any:
    """Return a logger whose lines carry `logger=name`."""
    return structlog.get_logger().bind(logger=name)
