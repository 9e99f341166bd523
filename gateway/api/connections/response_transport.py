"""The connection as a response writes to it, with an end that loses no answer."""

from asyncio import Transport
from collections.abc import Callable


class ResponseTransport(Transport):
    """Writes to a connection, and closes it by `end`.

    A plain close while the client still sends would reset the connection, and with it the response.
    """

    def __init__(self, connection: Transport, end: Callable[[], None]) -> None:
        super().__init__()
        self._connection = connection
        self._end = end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the data."""
        self._connection.write(data)

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._connection.is_closing()

    def close(self) -> None:
        """End the connection after what was written."""
        self._end()
