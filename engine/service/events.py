"""The numbered events of this process; the newest are kept for readers that reconnect."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from engine.protocol import Event, Heartbeat, Hello, Step

MAX_EVENTS: Final = 4096
HEARTBEAT_S: Final = 1.0
_encoder = msgspec.json.Encoder()


def encode_line(event: Event) -> bytes:
    """An event as one line of NDJSON."""
    return _encoder.encode(event) + b"\n"


class EventLog:
    """A ring buffer of encoded steps, numbered without gaps; used only on the asyncio thread.

    `busy_s` returns the seconds since the step in flight began, else 0.
    """

    def __init__(self, max_events: int = MAX_EVENTS, busy_s: Callable[[], float] = float) -> None:
        self.newest = 0
        self.busy_s = busy_s
        self._lines: deque[bytes] = deque(maxlen=max_events)
        self._readers: set[EventReader] = set()

    @property
    def oldest(self) -> int:
        """Number of the oldest event kept; `newest` + 1 if there is none."""
        return self.newest - len(self._lines) + 1

    def append(self, step: Step) -> None:
        """Append a step and wake all readers."""
        assert step.number == self.newest + 1, "an event was skipped or repeated"
        self.newest = step.number
        self._lines.append(encode_line(step))
        for reader in self._readers:
            reader.wake()

    def since(self, number: int) -> bytes:
        """The lines of the kept events after this number."""
        new = min(self.newest - number, len(self._lines))
        return b"".join(self._lines[index] for index in range(-new, 0))

    def attach(self, reader: "EventReader") -> None:
        """Wake this reader at each new event."""
        self._readers.add(reader)

    def detach(self, reader: "EventReader") -> None:
        """Stop waking this reader."""
        self._readers.discard(reader)


class EventReader:
    """One open stream: the events after a given number, until closed."""

    def __init__(
        self, events: EventLog, epoch: str, after: int, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._events = events
        self._epoch = epoch
        self._after = min(after, events.newest)
        self._heartbeat_s = heartbeat_s
        self._new_events = asyncio.Event()
        self._closed = False

    def wake(self) -> None:
        """Signal a new event."""
        self._new_events.set()

    def close(self) -> None:
        """End the stream after the lines already sent."""
        self._closed = True
        self._new_events.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """Hello, then every event as it occurs, and a heartbeat if none occurs for a while.

        Ends when closed, or when unread events have left the ring buffer; the Hello of the reader's
        next stream reports that loss.
        """
        self._events.attach(self)
        try:
            yield self._hello()
            while not self._closed and self._events.oldest <= self._after + 1:
                self._new_events.clear()
                lines, self._after = self._events.since(self._after), self._events.newest
                if lines:
                    yield lines
                elif not await self._wait_for_events():
                    yield encode_line(Heartbeat(self._after, round(self._events.busy_s(), 3)))
        finally:
            self._events.detach(self)

    def _hello(self) -> bytes:
        lost = self._events.oldest > self._after + 1
        self._after = max(self._after, self._events.oldest - 1)
        return encode_line(Hello(epoch=self._epoch, number=self._events.newest, lost=lost))

    async def _wait_for_events(self) -> bool:
        """Wait for an event; False if a heartbeat is due."""
        try:
            async with asyncio.timeout(self._heartbeat_s):
                return await self._new_events.wait()
        except TimeoutError:
            return False
