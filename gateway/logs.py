"""Structured logs on standard error: plain lines on a terminal, JSON elsewhere."""

import atexit
import logging
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from io import TextIOBase
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Final, TextIO, cast

import structlog
from msgspec import Struct

MAX_ALARMS: Final = 50  # kinds of events
MAX_FIELDS: Final = 8
MAX_FIELD: Final = 200  # characters
ALARM_LEVELS: Final = frozenset({"warning", "error", "critical"})
MAX_WAITING: Final = 10_000  # lines, while what reads the log takes none
CLOSE_S: Final = 1.0
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


class LogThread(TextIOBase):
    """Writes lines to a file in a thread, so that a reader or a disk that stalls stops no other.

    Beyond `MAX_WAITING` lines that wait, further ones are dropped, and their number is logged.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: SimpleQueue[str | Event] = SimpleQueue()
        self._dropped = 0
        Thread(target=self._work, name="log", daemon=True).start()

    def write(self, line: str) -> int:
        """Have a line written; it may be dropped."""
        if self._lines.qsize() < MAX_WAITING:
            self._lines.put(line)
        else:
            self._dropped += 1
        return len(line)

    def drain(self, within_s: float = CLOSE_S) -> bool:
        """Wait until the lines so far are written; whether they were in this time."""
        written = Event()
        self._lines.put(written)
        return written.wait(within_s)

    def _work(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, Event):
                line.set()
                continue
            with suppress(OSError):  # nothing reads it any more
                self._file.write(line)
                if self._lines.empty():
                    self._file.flush()
            if self._dropped and self._lines.qsize() < MAX_WAITING:
                dropped, self._dropped = self._dropped, 0
                structlog.get_logger().warning("log_lines_dropped", lines=dropped)


def set_up_logging(level: str, *, in_thread: bool = False) -> None:
    """Log events of `level` and above. Never prompts, answers or keys.

    `in_thread`: for an event loop, which a write would hold up. What is logged in the last moment
    before a kill is not written then.
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
        logger_factory=structlog.WriteLoggerFactory(_in_thread() if in_thread else sys.stderr),
        cache_logger_on_first_use=True,
    )


def _in_thread() -> TextIO:
    """Standard error, written in a thread, which at the exit is waited for a moment."""
    made = LogThread(sys.stderr)
    atexit.register(made.drain)
    return cast("TextIO", made)
