"""The states of a batch job and of its lines.

A job is validated, runs, and ends; its files are written in between:

    validating → in_progress → finalizing → completed | expired
    validating → failed                       (no line is valid, or the file cannot be read)
    validating | in_progress → cancelling → cancelled
    validating | finalizing | cancelling → failed    (too many attempts of the work have failed)

A line waits (WAITING), is claimed by a gateway (RUNNING), and ends in one of the other states,
which it keeps. A line whose gateway dies, or cannot run it now, waits again.
"""

from enum import IntEnum
from typing import Final, Literal, TypeAlias

Status: TypeAlias = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Window: TypeAlias = Literal["24h", "4h", "1h"]

OPEN: Final = ("validating", "in_progress", "finalizing", "cancelling")
CANCELLABLE: Final = ("validating", "in_progress")
WINDOW_S: Final[dict[Window, int]] = {"24h": 86_400, "4h": 14_400, "1h": 3_600}


class LineState(IntEnum):
    """The state of a line; the database stores the number."""

    WAITING = 0
    RUNNING = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4
    EXPIRED = 5


UNFINISHED: Final = (LineState.WAITING, LineState.RUNNING)
UNANSWERED: Final = (LineState.FAILED, LineState.CANCELLED, LineState.EXPIRED)
