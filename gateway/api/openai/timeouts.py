"""A client's timeouts, from its headers and the body's metadata."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from litestar import Request
from litestar.params import HeaderParameter
from msgspec import Struct
from msgspec.structs import replace

from gateway.api.http_metrics import RECEIVED_S
from gateway.errors import InvalidRequest

DEADLINE: Final = "x-lmaas-deadline-ms"
MAX_QUEUE: Final = "x-lmaas-max-queue-ms"
# Read timeouts in seconds, sent by OpenAI's clients for Python and for JavaScript.
READ_TIMEOUT: Final = "x-stainless-read-timeout"
TIMEOUT: Final = "x-stainless-timeout"
MAX_TIMEOUT_MS: Final = 24 * 3_600_000
# How much earlier than the client the gateway gives up, so that its reason still arrives.
EARLIER_SHARE: Final = 0.1
MAX_EARLIER_S: Final = 1.0
MAX_COMMENT_INTERVAL_S: Final = 10.0  # below the idle timeout of every common proxy
MIN_COMMENT_INTERVAL_S: Final = 0.05

DeadlineHeader: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name=DEADLINE,
        description=f"milliseconds until the whole answer is due, 1 to {MAX_TIMEOUT_MS}; "
        "503 `deadline_unreachable` as soon as it cannot be met",
    ),
]
MaxQueueHeader: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name=MAX_QUEUE,
        description=f"maximum milliseconds in the queue, 1 to {MAX_TIMEOUT_MS}; "
        "503 `queue_time_exceeded` once it is over. Unset: a little less than the client's read "
        "timeout, where it sends one",
    ),
]
ReadTimeoutHeader: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name=READ_TIMEOUT, description="seconds; sent by OpenAI's client for Python by itself"
    ),
]
TimeoutHeader: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name=TIMEOUT, description="seconds; sent by OpenAI's client for JavaScript by itself"
    ),
]


class ClientTimeouts(Struct, frozen=True):
    """Maximum seconds from a request's arrival to its whole answer, and to its start.

    `read_timeout_s`: the client gives up after this time without a byte. `received_s` is when the
    whole request had arrived, monotonic.
    """

    deadline_s: float | None = None
    max_queue_s: float | None = None
    read_timeout_s: float | None = None
    received_s: float | None = None

    @property
    def comment_interval_s(self) -> float:
        """Seconds between the comments on an idle stream: a third of the client's timeout."""
        third = (self.read_timeout_s or math.inf) / 3
        return max(MIN_COMMENT_INTERVAL_S, min(MAX_COMMENT_INTERVAL_S, third))

    def with_metadata(self, metadata: Mapping[str, str] | None) -> "ClientTimeouts":
        """The same, with what a body's `metadata` sets where its header is not sent.

        InvalidRequest names an invalid value as its header.
        """
        if not metadata:
            return self
        deadline_s = milliseconds(DEADLINE, metadata.get(DEADLINE))
        queue_s = milliseconds(MAX_QUEUE, metadata.get(MAX_QUEUE))
        by_client = self.max_queue_s == _queue_time_of_client(self.read_timeout_s)
        return replace(
            self,
            deadline_s=deadline_s if self.deadline_s is None else self.deadline_s,
            max_queue_s=queue_s if queue_s is not None and by_client else self.max_queue_s,
        )


def screen_metadata(fields: dict[str, Any]) -> list[str]:
    """Keep of a body's `metadata` what sets timeouts; returns its name if there is more in it."""
    given = fields.pop("metadata", None)
    if given is None:
        return []
    known = (
        {name: str(given[name]) for name in (DEADLINE, MAX_QUEUE) if given.get(name) is not None}
        if isinstance(given, dict)
        else {}
    )
    if known:
        fields["metadata"] = known
    return [] if known and given.keys() == known.keys() else ["metadata"]


def _queue_time_of_client(read_timeout_s: float | None) -> float | None:
    """A little less than a client's own timeout."""
    if read_timeout_s is None:
        return None
    return read_timeout_s - min(MAX_EARLIER_S, read_timeout_s * EARLIER_SHARE)


async def provide_timeouts(
    request: Request[Any, Any, Any],
    deadline: DeadlineHeader = None,
    max_queue: MaxQueueHeader = None,
    read_timeout: ReadTimeoutHeader = None,
    whole_timeout: TimeoutHeader = None,
) -> ClientTimeouts:
    """The dependency `timeouts`: the headers' values. InvalidRequest names an invalid header."""
    queue_s = milliseconds(MAX_QUEUE, max_queue)
    read_s = client_timeout(READ_TIMEOUT, read_timeout)
    if read_s is None:
        read_s = client_timeout(TIMEOUT, whole_timeout)
    if queue_s is None:
        queue_s = _queue_time_of_client(read_s)
    received_s = request.scope["state"].get(RECEIVED_S)
    return ClientTimeouts(milliseconds(DEADLINE, deadline), queue_s, read_s, received_s)


def milliseconds(header: str, value: str | None) -> float | None:
    """A header's milliseconds in seconds; None if it was not sent."""
    if value is None:
        return None
    whole = value.isascii() and value.isdecimal() and len(value) <= len(str(MAX_TIMEOUT_MS))
    if not whole or not 1 <= int(value) <= MAX_TIMEOUT_MS:
        raise InvalidRequest(
            f"{header} is {value[:40]!r}; accepted is a whole number of milliseconds, 1 to "
            f"{MAX_TIMEOUT_MS}",
            param=header,
        )
    return int(value) / 1000


def client_timeout(header: str, value: str | None) -> float | None:
    """A client's own timeout in seconds; None if it sends none or one outside 0 to 24 hours."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise InvalidRequest(
            f"{header} is {value[:40]!r}; accepted is a number of seconds", param=header
        )
    return seconds if 0 < seconds <= MAX_TIMEOUT_MS / 1000 else None
