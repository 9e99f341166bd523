"""Every error that the engine raises deliberately.

EngineFailure
├── StartupFailure        the process cannot start
│   ├── ModelUnavailable  the model cannot be fetched, converted or found
│   └── UnsupportedModel  the model exists but the engine cannot serve it correctly
├── OutOfMemory           a step did not fit the device; never shown to a client
├── GrammarRefused        a grammar cannot be compiled; its sequence ends with an error
└── RejectedCall          a call over the socket that the engine rejects
    ├── MalformedCall     the message does not follow the protocol
    ├── UnknownRoute      unknown path, or wrong method for it
    ├── OversizedCall     the body exceeds the size limit
    └── ConflictingCall   the call is for another epoch or from a replaced session

Only `engine.service.server` turns a RejectedCall into an HTTP answer, by its `status`.
"""

from typing import ClassVar


class EngineFailure(Exception):
    """An error whose message is meant for its cause: operator or caller."""


class StartupFailure(EngineFailure):
    """The process cannot start; the message is the only line shown."""


class ModelUnavailable(StartupFailure):
    """The model cannot be fetched, converted or found."""


class UnsupportedModel(StartupFailure):
    """The model exists, but this engine would not generate its correct tokens."""


class OutOfMemory(EngineFailure):
    """A step did not fit into device memory; the KV pool shrinks."""


class GrammarRefused(EngineFailure):
    """A grammar cannot be compiled; the message is for the client that sent it."""


class RejectedCall(EngineFailure):
    """A call over the socket that the engine rejects."""

    status: ClassVar[int] = 400


class MalformedCall(RejectedCall):
    """The message does not follow the protocol; the error names the place."""


class UnknownRoute(RejectedCall):
    """Unknown path, or wrong method for it."""

    status = 404


class OversizedCall(RejectedCall):
    """The body exceeds the size limit."""

    status = 413


class ConflictingCall(RejectedCall):
    """The call is for another epoch or from a replaced session."""

    status = 409
