"""Structured logs: one JSON object a line, on stderr."""

import logging
import sys
from typing import TextIO, cast

import structlog

from engine.log_thread import standard_error


def configure_logs(level: str) -> None:
    """Log events from this severity on, and write all of stderr in a thread: no step waits for it.

    That has warnings and tracebacks too, in their order among the events.
    """
    sys.stderr = cast("TextIO", standard_error())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
