"""Every error the engine raises on purpose.

EngineFailure
├── StartupFailure        the process cannot start: one line says why
│   └── ModelRefused      the model is there but cannot be served rightly
├── OutOfMemory           the device had no room for a step; never shown to a client
└── RejectedCall          a call over the socket that cannot be carried out
    ├── MalformedCall     what was sent is not in the protocol
    ├── UnknownRoute      no such path, or not with this method
    ├── OversizedCall     the body is larger than any honest submission
    └── ConflictingCall   it was meant for another epoch or a replaced session

`engine.service.server` alone turns a RejectedCall into HTTP, by its `status`.
"""

from typing import ClassVar


class EngineFailure(Exception):
    """An error with a message for whoever caused it."""


class StartupFailure(EngineFailure):
    """The process cannot start; the message is the one line shown."""


class UnsupportedModel(StartupFailure):
    """The model is there but this engine would not give its right tokens."""


class OutOfMemory(EngineFailure):
    """The device had no room for a step; the KV pool gives way."""


class RejectedCall(EngineFailure):
    """A call over the socket that cannot be carried out."""

    status: ClassVar[int] = 400


class MalformedCall(RejectedCall):
    """What was sent is not in the protocol; the message says where."""


class UnknownRoute(RejectedCall):
    """No such path, or not with this method."""

    status = 404


class OversizedCall(RejectedCall):
    """The body is larger than any honest submission."""

    status = 413


class ConflictingCall(RejectedCall):
    """It was meant for another epoch, or comes from a session that was replaced."""

    status = 409
