"""The protocol between gateway and predictor process: MessagePack frames over a pipe.

A frame is the length of its body (4 bytes, big-endian) and the body: one of the structs below.
"""

from asyncio import StreamReader
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from gateway.prediction.messages import FREE, Form, Stage

HEADER_BYTES: Final = 4


class ScoreRequest(Struct, frozen=True, tag=True, array_like=True):
    """A request to score; dropped once the monotonic clock passes `deadline_s`.

    Its text gets a sentence embedding if `embed` says so.
    """

    number: int
    deadline_s: float
    app: UUID
    instruction_hash: bytes
    instruction: str
    user_input: str
    features: bytes
    embed: bool = True
    form: Form = FREE


class RequestsStarted(Struct, frozen=True, tag=True, array_like=True):
    """Requests that wait no more, in the queue of the gateway: they are scored after those that do.

    Their scores still revise what runs and teach the version.
    """

    numbers: tuple[int, ...]


class LoadVersion(Struct, frozen=True, tag=True, array_like=True):
    """Switch to this version."""

    predictor: UUID
    model_hash: str
    artefact: bytes


class Ping(Struct, frozen=True, tag=True, array_like=True):
    """Answered with `Pong` by the thread that scores, before any request that waits."""


class Pong(Struct, frozen=True, tag=True, array_like=True):
    """The process is alive."""


class Ready(Struct, frozen=True, tag=True, array_like=True):
    """The process has started and accepts requests."""


class VersionLoaded(Struct, frozen=True, tag=True, array_like=True):
    """The version is in use; with an error it was refused and the previous one stays."""

    predictor: UUID
    error: str | None


class VersionScore(Struct, frozen=True, array_like=True):
    """A version's raw prediction: quantiles of ln tokens at `LEVELS`, and mean tokens."""

    predictor: UUID
    quantiles: tuple[float, ...]
    mean: float


class ScoreReply(Struct, frozen=True, tag=True, array_like=True):
    """The text vector as float16 bytes, and the score if a version is loaded.

    A request has one or two replies: the first of the stage `text`, and where the text's sentence
    embedding is computed, a second, of the stage `embeddings` if the version reads it. After the
    one that is `last` no other comes. `instruction_embedding` and `input_embedding`, float16 bytes
    too, are None until they have been computed; `shed` if the latter will not be, since too many
    texts wait.
    """

    number: int
    instruction_embedding: bytes | None
    text: bytes
    scored: VersionScore | None = None
    stage: Stage = "text"
    last: bool = True
    input_embedding: bytes | None = None
    shed: bool = False


class RequestDropped(Struct, frozen=True, tag=True, array_like=True):
    """A request whose deadline passed before it was scored."""

    number: int


PredictorRequest: TypeAlias = ScoreRequest | RequestsStarted | LoadVersion | Ping
PredictorReply: TypeAlias = Ready | VersionLoaded | ScoreReply | RequestDropped | Pong

encode_body = msgspec.msgpack.Encoder().encode
_requests: msgspec.msgpack.Decoder[PredictorRequest] = msgspec.msgpack.Decoder(PredictorRequest)
_replies: msgspec.msgpack.Decoder[PredictorReply] = msgspec.msgpack.Decoder(PredictorReply)


def encode_frame(message: PredictorRequest | PredictorReply) -> bytes:
    """The frame of a message."""
    body = encode_body(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class Readable(Protocol):
    """The receiving end of a pipe."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer only if the pipe was closed. Blocks."""


def read_request(pipe: Readable) -> PredictorRequest | None:
    """The next request; None if the pipe was closed. Blocks."""
    head = pipe.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return None
    size = int.from_bytes(head, "big")
    body = pipe.read(size)
    return _requests.decode(body) if len(body) == size else None


async def read_reply(pipe: StreamReader) -> PredictorReply:
    """The next reply. asyncio.IncompleteReadError if the pipe was closed."""
    head = await pipe.readexactly(HEADER_BYTES)
    body = await pipe.readexactly(int.from_bytes(head, "big"))
    return _replies.decode(body)
