"""What a batch job needs of the endpoint that its lines name.

The endpoints are above this package: the application passes them in.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from gateway.errors import LmaasError
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.tenancy.caller import Caller


class ServedName(Struct, frozen=True):
    """The name of the served model, and the `system_fingerprint` of its answers."""

    model: str
    fingerprint: str


class Endpoint(Protocol):
    """Reads requests and formats answers as the endpoint's own route does."""

    async def count_values(self, body: bytes, enough: int) -> int:
        """Keys and values of a JSON body, counted before it is decoded; at most `enough`: fewer."""

    def read(self, body: bytes, caller: Caller, model: str) -> GenerationRequest:
        """The request in a body. LmaasError as of the route, and for what a job cannot have."""

    def kept(self, body: bytes) -> bytes:
        """What `answer` needs of a body: it is kept while the line runs, so it is small."""

    def answer(self, kept: bytes, states: Sequence[RequestState], served: ServedName) -> bytes:
        """The answer as JSON, of the states of all choices, which have ended."""

    def error(self, error: LmaasError) -> tuple[int, bytes]:
        """The HTTP status and the body, as JSON, of an error."""


Endpoints: TypeAlias = Mapping[str, Endpoint]
"""By path, such as `/v1/chat/completions`."""
