"""How a server can fail. Each failure has one consequence; docs/upstream.md has the table."""


class StreamBroken(Exception):
    """A stream failed, and its sequence can go on from the tokens that it has.

    `connection`: the connection failed, so the server itself may be away.
    """

    def __init__(self, reason: str, *, connection: bool = False) -> None:
        super().__init__(reason)
        self.connection = connection


class ServerBusy(Exception):
    """The server takes no more requests for now."""

    def __init__(self, reason: str, retry_after_s: float | None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RequestRefused(Exception):
    """The server will never run this sequence, or its answer cannot be used."""


class ServerDenied(Exception):
    """The server refuses the key, or does not know the model or the route."""


class ServerUnusable(Exception):
    """The server's answers to probes show that it cannot be used as it is configured."""


class ServerStarting(Exception):
    """The server loads its model."""


class ServerUnreachable(Exception):
    """No answer: the connection was refused, broke, or nothing came in time."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
