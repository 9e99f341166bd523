"""The messages between gateway and engine; both sides import this file, so it is light.

`GET /info` answers `EngineInfo`. `POST /submit` takes a `Submission` and answers `Submitted`.
`GET /events?session=S&after=N` answers an endless NDJSON stream of `Event`s. The first event of
a stream is always a `Hello`; a gateway that reads another epoch than before has lost its
sequences and submits them again with what they had generated.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

SequenceId: TypeAlias = str
FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]

Tokens = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class Sampling(Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn; randomness is a function of (seed, position)."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: int = 0


class Sequence(Struct, frozen=True, omit_defaults=True):
    """One sequence to run: its prompt, what it already generated elsewhere, and its bounds.

    `max_tokens` counts all generated tokens, those in `generated` included. `reserve` is the
    generation length to promise KV memory for (the predicted upper quantile, in tokens).
    """

    id: SequenceId
    prompt: Annotated[list[int], Meta(min_length=1)]
    max_tokens: Positive
    reserve: Positive
    generated: list[int] = []
    stop_ids: list[int] = []
    sampling: Sampling = Sampling()


class SubmitBatch(Struct, frozen=True, tag="submit", tag_field="op"):
    """Sequences dispatched together. A sequence the engine already knows is not run twice."""

    batch: str
    sequences: list[Sequence]


class Cancel(Struct, frozen=True, tag="cancel", tag_field="op"):
    """Stop these sequences and free their pages at the next step; unknown ones are ignored."""

    ids: list[SequenceId]


class Revise(Struct, frozen=True, tag="revise", tag_field="op"):
    """Advisory: how many more tokens each sequence is now expected to generate."""

    remaining: dict[SequenceId, Tokens]


Operation: TypeAlias = SubmitBatch | Cancel | Revise


class Submission(Struct, frozen=True):
    """Operations of one gateway session, applied in order at the next step."""

    session: str
    epoch: str
    operations: list[Operation]


class Refused(Struct, frozen=True):
    """A sequence the engine will never run, and why."""

    id: SequenceId
    reason: str


class Submitted(Struct, frozen=True):
    """What became of a submission. Sequences not in `refused` were taken or already known."""

    epoch: str
    refused: list[Refused]


class KvState(Struct, frozen=True):
    """The engine's KV memory: pages in all, free ones, and tokens a page."""

    pages: int
    free: int
    page_tokens: int


class EngineInfo(Struct, frozen=True):
    """What the engine serves, fixed for its lifetime (`epoch`)."""

    epoch: str
    model: str
    context_tokens: int
    vocabulary: int
    stop_ids: list[int]
    kv: KvState
    device: str
    dtype: str


class Finish(Struct, frozen=True):
    """A sequence ended: `stop` by a stop id (not among its tokens), `length` by `max_tokens`."""

    id: SequenceId
    reason: FinishReason
    message: str | None = None


class Hello(Struct, frozen=True, tag="hello", tag_field="event"):
    """First line of a stream: the epoch, and the number of the newest event so far.

    `lost` is true where events after the asked number have left the ring buffer.
    """

    epoch: str
    number: int
    lost: bool = False


class Step(Struct, frozen=True, omit_defaults=True, tag="step", tag_field="event"):
    """One engine step: each sequence's new token, who finished, who was preempted, the KV state."""

    number: int
    kv: KvState
    tokens: dict[SequenceId, list[int]]
    finished: list[Finish] = []
    preempted: list[SequenceId] = []
    running: int = 0
    waiting: int = 0
    took_s: float = 0.0


class Heartbeat(Struct, frozen=True, tag="heartbeat", tag_field="event"):
    """Nothing happened for a second; the engine is alive."""

    number: int


Event: TypeAlias = Hello | Step | Heartbeat


class EngineError(Struct, frozen=True):
    """The body of every engine answer that is not a success."""

    error: str
