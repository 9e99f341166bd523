"""Every error that the gateway raises on purpose.

LmaasError
├── InvalidRequest
│   ├── CeilingExceeded
│   ├── ContextLengthExceeded
│   ├── HeadersTooLarge
│   ├── MalformedRequest
│   ├── RequestTooLarge
│   │   └── FileTooLarge
│   ├── UnsupportedMediaType
│   └── UnsupportedParameter
├── Unauthenticated
├── Forbidden
│   ├── KeyForbids
│   └── OriginRefused
├── NotFound
│   └── ModelNotFound
├── Conflict
│   └── PredictorRefused
├── OverLimit
│   ├── FileQuotaExceeded
│   ├── LimitReached
│   ├── TenantBatchesFull
│   ├── TenantQueueFull
│   └── TooManyUploads
├── RequestTimeout
├── Unavailable
│   ├── EngineLost
│   ├── DatabaseLost
│   ├── DeadlineUnreachable
│   │   └── QueueTimeExceeded
│   ├── GatewayStarting
│   ├── HistoryFull
│   ├── QueueFull
│   ├── ShuttingDown
│   └── TooManyConnections
├── ClientGone
├── RequestCancelled
├── GenerationFailed
└── StartupFailure

Services raise these and know no HTTP status; `gateway.api.errors` maps them to responses. A class's
docstring is the cause and `remedy` the remedy that `lmaas errors` prints as `docs/errors.md`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from gateway.limits.limit import Quantity, Standing

MAX_ECHO: Final = 200  # characters of a client's input in a message


def shortened(text: str) -> str:
    """A client's input for a message: cut after `MAX_ECHO` characters."""
    return text if len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]}…"


class LmaasError(Exception):
    """An error with a message for the user and, if a parameter is invalid, its name."""

    code: str | None = None
    remedy: ClassVar[str] = ""
    retry_after_s: float | None = None  # seconds after which a retry can succeed, if known
    should_retry: bool = True  # whether a client library's automatic retry can help

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool = True,
    ) -> None:
        """`retry_after_s` and a `should_retry` of False take the place of the class's own."""
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s
        self.should_retry = self.should_retry and should_retry


class InvalidRequest(LmaasError):
    """A field of the request is missing, unknown or has an invalid value."""

    code = "invalid_value"
    remedy = "Correct the field that `param` names; `message` says what is accepted."


class ContextLengthExceeded(InvalidRequest):
    """The prompt and `max_tokens` together exceed the model's context or the engine's KV memory."""

    code = "context_length_exceeded"
    remedy = "Shorten the prompt or lower `max_tokens`. An operator can raise `LMAAS_KV_TOKENS`."


class CeilingExceeded(InvalidRequest):
    """The request is predicted to need more than its headers allow; nothing was generated."""

    code = "ceiling_exceeded"
    remedy = (
        "Raise the bound in the header that `param` names, or lower `max_tokens`. "
        "`POST /v1/length-predictions` shows what is predicted."
    )


class UnsupportedParameter(InvalidRequest):
    """The request sets a parameter that is unknown, or not implemented and not without effect."""

    code = "unsupported_parameter"
    remedy = "Remove the parameter that `param` names, or send a value that `message` lists."


class InstructionRefused(InvalidRequest):
    """The served model's chat template refuses the instruction that is registered for the app."""

    code = "app_instruction_refused"
    remedy = (
        "The client's messages are not the cause. An administrator creates the app again without "
        "an instruction, or serves a model whose chat template accepts system messages."
    )


class MalformedRequest(InvalidRequest):
    """What the connection received is not an HTTP/1.1 request."""

    code = "malformed_request"
    remedy = "Check that the client speaks plain HTTP/1.1 to this port, and no TLS or HTTP/2."


class HeadersTooLarge(InvalidRequest):
    """The request line and headers are too large, or there are too many headers."""

    code = "headers_too_large"
    remedy = (
        "Send fewer or shorter headers. An operator can raise `LMAAS_MAX_HEADER_BYTES` and "
        "`LMAAS_MAX_HEADERS`."
    )


class RequestTooLarge(InvalidRequest):
    """The body has more bytes or more JSON values than the route accepts."""

    code = "request_too_large"
    remedy = (
        "Send a smaller body; split an import into several files. "
        "[Overload](overload.md#bodies) has the limits."
    )


class FileTooLarge(RequestTooLarge):
    """The file has more bytes than one file may have."""

    code = "file_too_large"
    remedy = "Split the file. An operator can raise `LMAAS_MAX_FILE_BYTES`."


class UnsupportedMediaType(InvalidRequest):
    """The body's `Content-Type` or `Content-Encoding` is not accepted by this route."""

    code = "unsupported_media_type"
    remedy = (
        "Send `Content-Type: application/json`, or what the OpenAPI page at `/schema` names, plain "
        "or with `Content-Encoding: gzip`."
    )


class Unauthenticated(LmaasError):
    """The `Authorization` header has no API key, or the key is unknown, revoked or expired."""

    code = "invalid_api_key"
    remedy = (
        "Send `Authorization: Bearer <key>`. `lmaas admin keys create` creates a key for `/v1`; "
        "the admin API has its own keys."
    )


class Forbidden(LmaasError):
    """The admin key is valid, but its scopes do not include this operation."""

    code = "insufficient_permissions"
    remedy = "Use a key with the scope that `message` names (`lmaas admin scoped-keys create`)."


class KeyForbids(Forbidden):
    """The API key does not allow the service tier or the deadline that the request asks for."""

    code = "not_allowed_for_key"
    remedy = (
        "Ask for what `message` says is allowed. An operator can change the key's rules "
        "(`lmaas admin keys update`)."
    )


class OriginRefused(Forbidden):
    """A browser asks for a web page whose origin may not call the APIs."""

    code = "origin_not_allowed"
    remedy = "An operator can add the page's origin to `LMAAS_CORS_ORIGINS`."


class NotFound(LmaasError):
    """The route does not exist, or no object has this id."""

    code = "not_found"
    remedy = "Check the path and the id; the lists of the admin API show existing ids."


class ModelNotFound(NotFound):
    """The request names a model that this gateway does not serve."""

    code = "model_not_found"
    remedy = "Use a model that `GET /v1/models` lists."


class Conflict(LmaasError):
    """The operation conflicts with the current state: a name is taken, or a run has finished."""

    code = "conflict"
    remedy = (
        "Read the object's current state and change the call; repeated as it is, it fails again."
    )


class PredictorRefused(Conflict):
    """The predictor version is damaged, or was made for another model or feature version."""

    code = "predictor_refused"
    remedy = (
        "Export the version again, or train one for this model with `lmaas admin predictors train`."
    )


class PredictorBroken(InvalidRequest):
    """The predictor version cannot be loaded, or predicts what is no length: a trial of it in a
    process of its own failed, died or hung.
    """

    code = "predictor_broken"
    remedy = (
        "`message` says what happened. Export the version again, or train one with "
        "`lmaas admin predictors train`."
    )


class OverLimit(LmaasError):
    """Too many unknown API keys are being looked up at the same time."""

    code = "rate_limit_exceeded"
    remedy = "Retry after `Retry-After` seconds. Check that every client has a valid key."


class TenantQueueFull(OverLimit):
    """The tenant's queued requests, their predicted tokens, or its long texts that wait to be
    processed have reached the tenant's limit.

    `retry_after_s`: seconds in which the tenant's queued work is done.
    """

    code = "tenant_queue_full"
    retry_after_s = 1.0
    remedy = (
        "Retry after `Retry-After` seconds, send fewer requests at once, or smaller ones. An "
        "operator can raise `LMAAS_MAX_TENANT_QUEUED_TOKENS` and "
        "`LMAAS_MAX_TENANT_QUEUED_REQUESTS`."
    )


class LimitReached(OverLimit):
    """A limit on requests, tokens, cost or memory refuses the request.

    `retry_after_s`: seconds until the request could be admitted. `limit` names the limit by its
    level and kind, `standings` how the limits on requests and tokens stand.
    """

    code = "limit_reached"
    remedy = (
        "Retry after `Retry-After` seconds, or with a smaller `max_tokens`, which needs less. "
        "`message` and the header `x-lmaas-limit` name the limit; an operator can raise it "
        "(`lmaas admin limits set`)."
    )

    def __init__(
        self,
        message: str,
        *,
        limit: str = "",
        standings: Mapping[Quantity, Standing] | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of every error."""
        super().__init__(message, **options)
        self.limit = limit
        self.standings = standings or {}


class LineAboveLimit(InvalidRequest):
    """The line of a batch needs more than a limit allows at all."""

    code = "line_above_limit"
    remedy = (
        "Lower `max_tokens` or `n` of the line. `message` names the limit; an operator can raise "
        "it (`lmaas admin limits set`)."
    )


class TenantBatchesFull(OverLimit):
    """The tenant has as many batches that have not ended as it may."""

    code = "tenant_batches_full"
    should_retry = False
    remedy = (
        "Wait until a batch has ended, or cancel one; put more lines into each. An operator can "
        "raise `LMAAS_MAX_TENANT_BATCHES`."
    )


class FileQuotaExceeded(OverLimit):
    """The tenant keeps as many files, or as many bytes in files, as it may."""

    code = "file_quota_exceeded"
    should_retry = False
    remedy = (
        "Delete files that are no longer needed (`DELETE /v1/files/{id}`), or upload them with a "
        "shorter `expires_after`. An operator can raise `LMAAS_MAX_TENANT_FILE_BYTES` and "
        "`LMAAS_MAX_TENANT_FILES`."
    )


class TooManyUploads(OverLimit):
    """The tenant has as many uploads at the same time as this gateway accepts."""

    code = "too_many_uploads"
    remedy = "Retry after `Retry-After` seconds, and upload fewer files at the same time."


class RequestTimeout(LmaasError):
    """The client did not send the whole headers or the whole body in time."""

    code = "request_timeout"
    remedy = (
        "Send it again on a faster connection. An operator can raise `LMAAS_HEADER_TIMEOUT_S` and "
        "`LMAAS_BODY_TIMEOUT_S`."
    )


class Unavailable(LmaasError):
    """A component that the request needs, such as the predictor process, is not ready."""

    code = "service_unavailable"
    remedy = "Retry after `Retry-After` seconds. If it persists, read the gateway's log."


class EngineLost(Unavailable):
    """The engine is loading its model, or is away for longer than a restart takes."""

    code = "engine_unavailable"
    remedy = (
        "Retry after `Retry-After` seconds. If it persists, `GET /health/ready` and the engine's "
        "log show why it does not start."
    )


class DatabaseLost(Unavailable):
    """PostgreSQL does not answer."""

    code = "database_unavailable"
    remedy = (
        "Retry after `Retry-After` seconds. Operators: check `DATABASE_URL` and the server. "
        "Keys used since the gateway's start keep working, and history waits in the spool."
    )


class DeadlineUnreachable(Unavailable):
    """The answer cannot be complete by the request's deadline.

    `retry_after_s`: seconds after which the same request could meet its deadline.
    """

    code = "deadline_unreachable"
    remedy = "Retry after `Retry-After` seconds, or allow more time (`x-lmaas-deadline-ms`)."
    retry_after_s = 1.0
    should_retry = False
    reason = "deadline"  # the value in records and metrics


class QueueTimeExceeded(DeadlineUnreachable):
    """The request did not start within its longest allowed wait."""

    code = "queue_time_exceeded"
    remedy = (
        "Retry after `Retry-After` seconds, or allow a longer wait: `x-lmaas-max-queue-ms`, "
        "or the client library's read timeout."
    )
    reason = "queue_time"
    should_retry = True


class QueueFull(Unavailable):
    """The queued requests of all tenants, their predicted tokens, or the long texts that wait to be
    processed have reached the limit.

    `retry_after_s`: seconds in which the queued work is done.
    """

    code = "queue_full"
    retry_after_s = 1.0
    remedy = (
        "Retry after `Retry-After` seconds or at another gateway. An operator can add a node, or "
        "raise `LMAAS_MAX_QUEUED_TOKENS` and `LMAAS_MAX_QUEUED_REQUESTS`."
    )


class GatewayStarting(Unavailable):
    """The gateway starts: its database, or its engine's model, is not there yet."""

    code = "starting"
    remedy = (
        "Retry after `Retry-After` seconds or at another gateway. `reason` in `GET /health/ready` "
        "says what the start does."
    )


class HistoryFull(Unavailable):
    """As many records of requests wait for PostgreSQL as may: it has been away, or has been slower
    than requests, for long.
    """

    code = "history_full"
    retry_after_s = 10.0
    remedy = (
        "Retry after `Retry-After` seconds or at another gateway. Operators: see why PostgreSQL "
        "takes no records; `LMAAS_MAX_SPOOL_BYTES` bounds what waits."
    )


class ShuttingDown(Unavailable):
    """The gateway is stopping: it accepts no request, and ends running ones after a time limit."""

    code = "shutting_down"
    remedy = (
        "Retry after `Retry-After` seconds or at another gateway. `LMAAS_DRAIN_S` sets how long "
        "running requests may take to finish."
    )


class TooManyConnections(Unavailable):
    """As many connections are open as the gateway accepts."""

    code = "too_many_connections"
    remedy = (
        "Retry after `Retry-After` seconds, and reuse connections. An operator can raise "
        "`LMAAS_MAX_CONNECTIONS`."
    )


class ClientGone(LmaasError):
    """The client closed the connection before the answer was complete."""

    code = "client_gone"
    remedy = (
        "If the client closed too early, raise its timeout; there is nothing to do on the server."
    )


class RequestCancelled(LmaasError):
    """An operator ended the request (`lmaas admin requests cancel`)."""

    code = "request_cancelled"
    remedy = "Ask the operator before sending it again."


class GenerationFailed(LmaasError):
    """The engine refused the request or failed while it computed the answer."""

    code = "generation_failed"
    remedy = "Retry once. If it persists, report `message` and `x-request-id` to the operator."


class StartupFailure(LmaasError):
    """A process or command cannot start; the message on standard error has the reason."""

    code = "startup_failure"
    remedy = "Correct the setting, file or server that the message names, then start again."
