"""Structured logs on standard error: plain lines on a terminal, JSON elsewhere."""

import logging
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, TextIO, cast

import structlog
from msgspec import Struct

from engine.log_thread import standard_error

MAX_ALARMS: Final = 50  # kinds of events
MAX_FIELDS: Final = 8
MAX_FIELD: Final = 200  # characters
ALARM_LEVELS: Final = frozenset({"warning", "error", "critical"})
UNSHOWN: Final = frozenset({"event", "level", "timestamp", "exception", "exc_info", "request_id"})


class Alarm(Struct, frozen=True):
    """An event of level warning or above: how often it was logged, and when and with what last."""

    event: str
    level: str
    last_at: str  # ISO 8601
    count: int
    fields: Mapping[str, str]


class RecentAlarms:
    """Keeps the newest alarms, one of each event: a processor of structlog."""

    def __init__(self) -> None:
        self._alarms: OrderedDict[str, Alarm] = OrderedDict()

    def __call__(
        self, _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Pass the event on; note it if it is an alarm."""
        if event.get("level") in ALARM_LEVELS:
            self._keep(event)
        return event

    def newest(self, count: int) -> list[Alarm]:
        """The newest alarms, the last one first."""
        return [*reversed(self._alarms.values())][:count]

    def _keep(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("event"))[:MAX_FIELD]
        before = self._alarms.pop(name, None)
        shown = [(key, value) for key, value in event.items() if key not in UNSHOWN]
        self._alarms[name] = Alarm(
            event=name,
            level=str(event["level"]),
            last_at=str(event.get("timestamp", "")),
            count=1 if before is None else before.count + 1,
            fields={key[:MAX_FIELD]: str(value)[:MAX_FIELD] for key, value in shown[:MAX_FIELDS]},
        )
        if len(self._alarms) > MAX_ALARMS:
            self._alarms.popitem(last=False)


alarms: Final = RecentAlarms()


def set_up_logging(level: str, *, in_thread: bool = False) -> None:
    """Log events of `level` and above. Never prompts, answers or keys.

    `in_thread`: for a process that serves, which a write would hold up: see `standard_error`.
    """
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            alarms,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(
            cast("TextIO", standard_error()) if in_thread else sys.stderr
        ),
        cache_logger_on_first_use=True,
    )


def set_up_child_logging(level: str) -> None:
    """The same for a child process, whose tracebacks and warnings go the same way."""
    sys.stderr = cast("TextIO", standard_error())
    set_up_logging(level, in_thread=True)
