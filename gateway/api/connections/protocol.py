"""uvicorn's HTTP/1.1 protocol with bounds on what a client sends before it is authenticated.

Data is fed to the parser in slices, so that it never holds more than the header limit and a slice.
One timer runs at a time: for the headers, for the body, or for a body that comes after its answer.
"""

from asyncio import AbstractEventLoop, Transport
from asyncio.events import TimerHandle
from enum import Enum, auto
from functools import partial
from typing import Any, ClassVar, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.api.connections.close_delimited import close_delimited
from gateway.api.connections.file_transfer import body_timeout_s
from gateway.api.connections.limits import ConnectionLimits
from gateway.api.connections.open_connections import Entry, OpenConnections
from gateway.api.connections.paced_reading import PacedReading
from gateway.api.connections.refusal import Refusals
from gateway.api.connections.request_starts import RequestStarts
from gateway.api.connections.response_transport import ResponseTransport
from gateway.api.connections.unread_answer import UnreadAnswer
from gateway.api.http_metrics import (
    ANSWERED,
    DOWNLOAD_TIMEOUT,
    EVICTED,
    GONE,
    REJECTED,
    HttpMetrics,
)
from gateway.api.request_id import new_request_id
from gateway.errors import (
    ClientGone,
    HeadersTooLarge,
    LmaasError,
    MalformedRequest,
    RequestTimeout,
    TooManyConnections,
)

SLICE: Final = 16 << 10  # bytes
MAX_PIPELINED: Final = 32  # requests that wait for the answer before theirs
HEADER_OVERHEAD: Final = 4  # bytes: colon, space, line end
HEALTH: Final = b"/health"
HEALTH_REQUESTS: Final = (b"GET /health", b"HEAD /health")
# After an error, data is discarded for a while: a close with unread data would reset the
# connection, and the client would lose the answer.
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64 << 20
# A timer that fires late, because the loop was busy, lets waiting data be read first.
GRACE_S: Final = 0.1


class _Phase(Enum):
    """What the parser reads next."""

    BETWEEN = auto()  # nothing of a request yet
    HEADERS = auto()
    BODY = auto()


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection within `limits`; `bounded_protocol` makes the class that a server takes."""

    limits: ClassVar[ConnectionLimits]
    open_connections: ClassVar[OpenConnections]
    reading: ClassVar[PacedReading]
    starts: ClassVar[RequestStarts]
    ends: ClassVar[RequestStarts]  # of requests whose clients have left
    refusals: ClassVar[Refusals]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase = _Phase.BETWEEN
        self._entry = Entry.ADMITTED
        self._running: RequestResponseCycle | None = None  # the application is at this request
        self._requests = 0  # received whole
        self._header_bytes = 0
        self._header_count = 0
        self._unparsed = 0  # bytes fed since the parser last handed something over
        self._refused = False  # whatever comes is discarded
        self._discarded = 0  # bytes
        self._unread: list[bytes] = []  # received, and parsed in a later turn of the loop
        self._timer: TimerHandle | None = None
        self._timed: tuple[object, ...] | None = None  # what the timer is for
        self._unread_answer = UnreadAnswer(self.loop, self.limits.body_timeout_s)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Count the connection and time its first request."""
        super().connection_made(transport)
        self._entry = self.open_connections.enter(self)
        if self._entry is Entry.REJECTED:
            self._refused = True
            self._log(self._over_limit(), REJECTED)
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and let the running request know, which may be an earlier one."""
        self.open_connections.leave(self)
        self._cancel_timer()
        self._unread_answer.end()
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.scope["state"][GONE] = True
        cycle = self.cycle
        self.cycle = None  # type: ignore[assignment]  # it is woken below, not at once
        super().connection_lost(exc)
        self.cycle = cycle
        for each in {self._running, cycle}:
            if each is None:
                continue
            if not each.response_complete:  # the application ends it: one in each turn of the loop
                each.disconnected = True
                self.ends.start(self.loop, each.message_event.set)
            self._release(each)

    def close_idle(self) -> None:
        """Close a connection that is kept alive without a request, to make room for another."""
        if self._unsent():
            self.transport.abort()  # its client does not read the answer
        else:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was kept alive for long without a request."""
        if not self.transport.is_closing():
            self._close()

    def shutdown(self) -> None:
        """The server stops: close the connection, once what runs on it has ended."""
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def data_received(self, data: bytes) -> None:
        """Parse the data, in a later turn of the loop if much arrives in this one."""
        self.open_connections.mark_busy(self)
        if self._unread:
            self._unread.append(data)
        elif self.reading.exhausted and not data.startswith(HEALTH_REQUESTS):
            self._unread.append(data)
            self.transport.pause_reading()
            self.reading.later(self.loop, self._parse_unread)
        else:
            self.reading.now(self.loop, partial(self._parse, data))

    def _parse_unread(self) -> None:
        data, self._unread = b"".join(self._unread), []
        if self.transport.is_closing():
            return
        if not self.flow.read_paused:
            self.transport.resume_reading()
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse the data in slices until a bound is exceeded."""
        self._unset_keepalive_if_required()
        view = memoryview(data)
        for start in range(0, len(data), SLICE):
            if self._refused:
                self._discard(len(data) - start)
                return
            self._feed(view[start : start + SLICE])
        if not self._refused:
            self._watch()

    def _feed(self, piece: memoryview) -> None:
        self._unparsed += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._close_after_answers()  # the request is answered in HTTP/1.1
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, LmaasError):
                cause = MalformedRequest(f"the request is not HTTP: {_reason(error)}")
            self._refuse(cause)
        else:
            if self._unparsed > self.limits.header_bytes:
                self._refuse(self._headers_too_large())

    def pause_writing(self) -> None:
        """The client does not keep up with its answer: it has a limited time to go on."""
        super().pause_writing()
        self._unread_answer.begin(self._unsent, self._abandon)

    def resume_writing(self) -> None:
        """The client read most of what was sent."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._unread_answer.end()

    def _unsent(self) -> int:
        """Bytes that wait until the client reads."""
        return self.transport.get_write_buffer_size()

    def _abandon(self) -> None:
        self._log(ClientGone("the client stopped reading its answer"), DOWNLOAD_TIMEOUT)
        self.transport.abort()

    def _close(self) -> None:
        """Close the connection once its client has read all, which it has a limited time for."""
        self.transport.close()
        if self._unsent():
            self._unread_answer.begin(self._unsent, self._abandon)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._phase = _Phase.HEADERS
        self._header_bytes = self._header_count = self._unparsed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._count_header_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer of a chunked body, which is counted and dropped."""
        self._count_header_bytes(len(name) + len(value) + HEADER_OVERHEAD)
        self._header_count += 1
        if self._header_count > self.limits.headers:
            raise HeadersTooLarge(f"the request has more than {self.limits.headers} headers")
        if self._phase is _Phase.HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless too many connections or requests are ahead of it."""
        if self._entry is Entry.OVER_LIMIT and not self.url.startswith(HEALTH):
            raise self._over_limit()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequest(f"more than {MAX_PIPELINED} requests wait on this connection")
        super().on_headers_complete()
        self._phase = _Phase.BODY
        self.cycle.transport = ResponseTransport(self.transport, partial(self._end, self.cycle))
        if self._entry is Entry.OVER_LIMIT:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body; one that was answered already is read to its end if it is short."""
        self._unparsed = 0
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is received whole."""
        self._phase = _Phase.BETWEEN
        self._requests += 1
        self._unparsed = self._discarded = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self._release(self._running)
        super().on_response_complete()
        if self._refused or self.transport.is_closing():
            return
        if self._phase is _Phase.BODY and self.cycle.response_complete and self.expect_100_continue:
            self._linger()  # whether the body will still come is unknown
            return
        if self._phase is _Phase.BETWEEN and not self._answering:
            path = self._running.scope["raw_path"] if self._running is not None else b""
            self.open_connections.mark_idle(self, monitor=path.startswith(HEALTH))
        self._watch()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["http_version"] != "1.1":
            app = close_delimited(app, cycle)
        begin = partial(super()._start_asgi_task, cycle, app)
        if cycle.scope["raw_path"].startswith(HEALTH):
            begin()
        else:
            self.starts.start(self.loop, begin)

    def _release(self, cycle: RequestResponseCycle | None) -> None:
        """Let go of what refers to a request whose response has ended, which refers to that.

        It would stay until garbage is searched for cycles.
        """
        if cycle is not None:
            cycle.transport = self.transport

    @property
    def _answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _count_header_bytes(self, size: int) -> None:
        self._unparsed = 0
        self._header_bytes += size
        if self._header_bytes > self.limits.header_bytes:
            raise self._headers_too_large()

    def _headers_too_large(self) -> HeadersTooLarge:
        most = self.limits.header_bytes
        return HeadersTooLarge(f"the request line and headers are larger than {most} bytes")

    def _over_limit(self) -> TooManyConnections:
        most = self.limits.connections
        return TooManyConnections(f"{most} connections are open, the most this gateway accepts")

    def _watch(self) -> None:
        """Time what the client has yet to send, from when that began."""
        answered = self.cycle is not None and self.cycle.response_complete
        waits_for_client = self._phase is not _Phase.BETWEEN or (
            self._requests == 0 or (self._unparsed > 0 and not self._answering)
        )
        if self._phase is _Phase.BODY:
            timed: tuple[object, ...] | None = (self._requests, "body", answered)
            limit_s = LINGER_S if answered else body_timeout_s(self.cycle.scope, self.limits)
        else:
            timed = (self._requests, "headers") if waits_for_client else None
            limit_s = self.limits.header_timeout_s
            if self._entry is Entry.OVER_LIMIT:
                limit_s = min(limit_s, LINGER_S)
        if timed != self._timed:
            self._cancel_timer()
            self._timed = timed
            if timed is not None:
                self._start_timer(limit_s)

    def _start_timer(self, limit_s: float) -> None:
        def expire() -> None:
            self._timer = self.loop.call_later(GRACE_S, self._time_out, limit_s)

        self._timer = self.loop.call_later(limit_s, expire)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _time_out(self, limit_s: float) -> None:
        """The client was too slow, unless it waits for us to read or to ask for the body."""
        in_body = self._phase is _Phase.BODY
        if in_body and self.cycle.response_complete:
            self._linger()
        elif self.flow.read_paused or (in_body and self.cycle.waiting_for_100_continue):
            self._start_timer(limit_s)
        elif self._requests == 0 and self._phase is _Phase.BETWEEN and self._unparsed == 0:
            self.refusals.add_silent()
            self._close()  # it never sent a byte: no request to answer
        else:
            part = "body" if in_body else "headers"
            error = RequestTimeout(f"the {part} did not arrive within {limit_s:g} s")
            self._refuse(error, f"{part}_timeout")

    def _refuse(self, error: LmaasError, reason: str | None = None) -> None:
        """Answer with the error and close, once earlier requests have their answers."""
        if self._refused:
            return
        request_id = self._log(error, reason)
        own = self.cycle if self._phase is _Phase.BODY else None
        if own is not None and own.response_complete:
            self._linger()
        elif self._answering and own is not self._running:
            self._close_after_answers()
        else:
            started = own is not None and own.response_started
            if own is not None:  # the application learns that the client is gone
                own.disconnected = True
                own.message_event.set()
                own.scope["state"][ANSWERED] = True
            if started:
                self._refused = True
                self._close()
                return
            server_headers = self.server_state.default_headers
            self.transport.write(self.refusals.response(error, request_id, server_headers))
            self._linger()

    def _log(self, error: LmaasError, reason: str | None) -> str:
        request_id = new_request_id()
        peer = "{}:{}".format(*self.client) if self.client else "local socket"
        self.refusals.add(error, peer, request_id, reason=reason)
        return request_id

    def _close_after_answers(self) -> None:
        """Read no further request; the requests received whole are answered first."""
        self._refused = True
        self._cancel_timer()
        last: RequestResponseCycle | None = self.cycle
        if self._phase is _Phase.BODY and self.pipeline:
            self.pipeline.popleft()  # its body will not come
            last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and not last.response_complete:
            last.keep_alive = False
        else:
            self._close()

    def _end(self, cycle: RequestResponseCycle) -> None:
        """Close after a response that is the connection's last."""
        if cycle is self.cycle and self._phase is _Phase.BODY:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """End our side of the connection, and discard what still comes for a short time."""
        self._refused = True
        self._cancel_timer()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self._close)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.flow.pause_reading()


def bounded_protocol(limits: ConnectionLimits, metrics: HttpMetrics) -> type[BoundedHttpProtocol]:
    """The protocol of one server, whose connections are counted together."""

    class ServerProtocol(BoundedHttpProtocol):
        pass

    ServerProtocol.limits = limits
    ServerProtocol.open_connections = OpenConnections(
        limits.connections, partial(metrics.refused, EVICTED)
    )
    ServerProtocol.reading = PacedReading()
    ServerProtocol.starts = RequestStarts()
    ServerProtocol.ends = RequestStarts()
    ServerProtocol.refusals = Refusals(metrics)
    metrics.count_open(ServerProtocol.open_connections)
    return ServerProtocol


def _reason(error: httptools.HttpParserError) -> str:
    """The parser's words; what fails in our own callbacks is the request's target."""
    if isinstance(error, httptools.HttpParserCallbackError):
        return "its target cannot be read"
    return str(error)
