"""Every error the gateway raises on purpose.

LmaasError
├── InvalidRequest              what was sent cannot be served as it is
│   ├── ContextLengthExceeded   the prompt leaves no room for an answer
│   └── UnsupportedParameter    it would change the meaning, so it is not ignored
├── Unauthenticated             no key, or one we do not know
├── Forbidden                   a known key that may not do this
├── NotFound
│   └── ModelNotFound
├── Conflict                    it contradicts what is there
│   └── PredictorRefused        a version is damaged, or belongs to another model
├── OverLimit                   too much at once, try later
├── Unavailable                 something we need is away for now
│   ├── EngineLost
│   ├── DatabaseLost
│   ├── DeadlineUnreachable     the answer cannot be there when it is wanted
│   │   └── QueueTimeExceeded   it has not started within the longest wait that was allowed
│   └── ShuttingDown
├── ClientGone                  nobody is there to read the answer
├── RequestCancelled            an operator ended it
├── GenerationFailed            the engine could not run the sequence
└── StartupFailure              the process cannot start: one line says why

Services raise these and know no status code; `gateway.api.errors` alone turns them into HTTP.
"""


class LmaasError(Exception):
    """An error with a message for the user and, where one is at fault, the parameter's name."""

    code: str | None = None
    retry_after_s: float | None = None  # when asking again makes sense, where that is known

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(LmaasError):
    """What was sent cannot be served as it is."""

    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """A parameter that changes the answer's meaning and is not offered."""

    code = "unsupported_parameter"


class Unauthenticated(LmaasError):
    """No API key, or one that is unknown or revoked."""

    code = "invalid_api_key"


class Forbidden(LmaasError):
    """The key is known but may not do this."""

    code = "insufficient_permissions"


class NotFound(LmaasError):
    """No such thing."""

    code = "not_found"


class ModelNotFound(NotFound):
    """The model is not served here."""

    code = "model_not_found"


class Conflict(LmaasError):
    """It contradicts what is already there."""

    code = "conflict"


class PredictorRefused(Conflict):
    """A predictor's version is damaged, or was made for another model or feature version."""

    code = "predictor_refused"


class OverLimit(LmaasError):
    """Too much at once; the same call may succeed later."""

    code = "rate_limit_exceeded"


class Unavailable(LmaasError):
    """Something the request needs is away for now."""

    code = "service_unavailable"


class EngineLost(Unavailable):
    """The engine does not answer."""

    code = "engine_unavailable"


class DatabaseLost(Unavailable):
    """Postgres does not answer."""

    code = "database_unavailable"


class DeadlineUnreachable(Unavailable):
    """The answer cannot be there when it is wanted; `retry_after_s` tells when one could be."""

    code = "deadline_unreachable"
    reason = "deadline"  # in records and metrics

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class QueueTimeExceeded(DeadlineUnreachable):
    """It has not started within the longest wait that was allowed."""

    code = "queue_time_exceeded"
    reason = "queue_time"


class ShuttingDown(Unavailable):
    """The gateway takes no new requests because it is stopping."""

    code = "shutting_down"


class ClientGone(LmaasError):
    """Nobody is there to read the answer."""

    code = "client_gone"


class RequestCancelled(LmaasError):
    """An operator ended the request."""

    code = "request_cancelled"


class GenerationFailed(LmaasError):
    """The engine could not run the sequence."""

    code = "generation_failed"


class StartupFailure(LmaasError):
    """The process cannot start; the message is the one line shown."""

    code = "startup_failure"
