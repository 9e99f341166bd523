"""What gateway and predictor process say to each other: MessagePack frames over a pipe.

A frame is its body's length (4 bytes, big-endian) and the body: one of the structs below.
"""

from asyncio import StreamReader
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

HEADER_BYTES: Final = 4


class ScoreRequest(Struct, frozen=True, tag=True, array_like=True):
    """One request to score; forgotten once the monotonic clock passed `deadline_s`."""

    number: int
    deadline_s: float
    app: UUID
    instruction_hash: bytes
    instruction: str
    user_input: str
    features: bytes


class LoadVersion(Struct, frozen=True, tag=True, array_like=True):
    """Score with this version from now on."""

    predictor: UUID
    model_hash: str
    artefact: bytes


class Ready(Struct, frozen=True, tag=True, array_like=True):
    """The process can encode texts and score."""


class VersionLoaded(Struct, frozen=True, tag=True, array_like=True):
    """The version is in use; with an error it is not, and the one before stays."""

    predictor: UUID
    error: str | None


class VersionScore(Struct, frozen=True, array_like=True):
    """What a version says of a request: quantiles of ln tokens at `LEVELS`, and mean tokens."""

    predictor: UUID
    quantiles: tuple[float, ...]
    mean: float


class ScoreReply(Struct, frozen=True, tag=True, array_like=True):
    """The text's vector as float16 bytes; and the score, where a version is loaded.

    The instruction's embedding comes along once it has been made.
    """

    number: int
    instruction_embedding: bytes | None
    text: bytes
    scored: VersionScore | None = None


class RequestDropped(Struct, frozen=True, tag=True, array_like=True):
    """A question that waited too long."""

    number: int


PredictorRequest: TypeAlias = ScoreRequest | LoadVersion
PredictorReply: TypeAlias = Ready | VersionLoaded | ScoreReply | RequestDropped

encode_body = msgspec.msgpack.Encoder().encode
_requests: msgspec.msgpack.Decoder[PredictorRequest] = msgspec.msgpack.Decoder(PredictorRequest)
_replies: msgspec.msgpack.Decoder[PredictorReply] = msgspec.msgpack.Decoder(PredictorReply)


def encode_frame(message: PredictorRequest | PredictorReply) -> bytes:
    """A message as it goes over the pipe."""
    body = encode_body(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class Readable(Protocol):
    """The receiving end of a pipe."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer only where the pipe was closed. Blocks."""


def read_request(pipe: Readable) -> PredictorRequest | None:
    """The next request, None where the pipe was closed. Blocks."""
    head = pipe.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return None
    size = int.from_bytes(head, "big")
    body = pipe.read(size)
    return _requests.decode(body) if len(body) == size else None


async def read_reply(pipe: StreamReader) -> PredictorReply:
    """The next reply. asyncio.IncompleteReadError where the pipe was closed."""
    head = await pipe.readexactly(HEADER_BYTES)
    body = await pipe.readexactly(int.from_bytes(head, "big"))
    return _replies.decode(body)
