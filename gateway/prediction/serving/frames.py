"""What gateway and predictor process say to each other: MessagePack frames over a pipe.

A frame is its body's length (4 bytes, big-endian) and the body: one of the structs below.
"""

from asyncio import StreamReader
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

HEAD_BYTES: Final = 4


class Ask(Struct, frozen=True, tag=True, array_like=True):
    """One request to score; forgotten once the monotonic clock passed `deadline_s`."""

    number: int
    deadline_s: float
    app: UUID
    instruction_hash: bytes
    instruction: str
    user_input: str
    features: bytes


class Load(Struct, frozen=True, tag=True, array_like=True):
    """Score with this version from now on."""

    predictor: UUID
    model_hash: str
    artefact: bytes


class Ready(Struct, frozen=True, tag=True, array_like=True):
    """The process can encode texts and score."""


class Loaded(Struct, frozen=True, tag=True, array_like=True):
    """The version is in use; with an error it is not, and the one before stays."""

    predictor: UUID
    error: str | None


class Scored(Struct, frozen=True, array_like=True):
    """What a version says of a request: quantiles of ln tokens at `LEVELS`, and mean tokens."""

    predictor: UUID
    quantiles: tuple[float, ...]
    mean: float


class Answer(Struct, frozen=True, tag=True, array_like=True):
    """The text's vector as float16 bytes; and the score, where a version is loaded.

    The instruction's embedding comes along once it has been made.
    """

    number: int
    instruction_embedding: bytes | None
    text: bytes
    scored: Scored | None = None


class Dropped(Struct, frozen=True, tag=True, array_like=True):
    """A question that waited too long."""

    number: int


Request: TypeAlias = Ask | Load
Reply: TypeAlias = Ready | Loaded | Answer | Dropped

encode_body = msgspec.msgpack.Encoder().encode
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    """A message as it goes over the pipe."""
    body = encode_body(message)
    return len(body).to_bytes(HEAD_BYTES, "big") + body


class Readable(Protocol):
    """The receiving end of a pipe."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer only where the pipe was closed. Blocks."""


def read_request(pipe: Readable) -> Request | None:
    """The next request, None where the pipe was closed. Blocks."""
    head = pipe.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    size = int.from_bytes(head, "big")
    body = pipe.read(size)
    return _requests.decode(body) if len(body) == size else None


async def read_reply(pipe: StreamReader) -> Reply:
    """The next reply. asyncio.IncompleteReadError where the pipe was closed."""
    head = await pipe.readexactly(HEAD_BYTES)
    body = await pipe.readexactly(int.from_bytes(head, "big"))
    return _replies.decode(body)
