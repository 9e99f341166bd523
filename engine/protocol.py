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
Mode: TypeAlias = Literal["continuous", "lockstep"]

Tokens = Annotated[int, Meta(ge=0)]
PreemptFirst = Annotated[int, Meta(ge=0, le=9)]
Positive = Annotated[int, Meta(ge=1)]


class Sampling(Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn; randomness is a function of (seed, position).

    In this order: `logit_bias` is added; `repetition_penalty` (prompt and generated tokens), then
    `frequency_penalty` and `presence_penalty` (generated tokens) are applied; only `allowed` ids
    remain, where any are named; then temperature, `top_k` (0: all), `top_p`, `min_p`. `logprobs`
    asks for the log probability of each token before temperature, and of so many likeliest.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] = {}
    allowed: list[int] = []
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: int = 0


class TokenLogprobs(Struct, frozen=True):
    """The log probability of a drawn token, and the likeliest tokens with theirs."""

    logprob: float
    top: list[tuple[int, float]] = []


class Sequence(Struct, frozen=True, omit_defaults=True):
    """One sequence to run: its prompt, what it already generated elsewhere, and its bounds.

    `max_tokens` counts all generated tokens, those in `generated` included. `reserve` is the
    generation length to promise KV memory for (the predicted upper quantile, in tokens).
    Sequences of one `salt` share the KV memory of equal prefixes; those of different salts never.
    Where memory runs out, the sequence with the highest `preempt_first` is preempted, and one with
    a lower value starts before it.
    """

    id: SequenceId
    prompt: Annotated[list[int], Meta(min_length=1)]
    max_tokens: Positive
    reserve: Positive
    generated: list[int] = []
    stop_ids: list[int] = []
    sampling: Sampling = Sampling()
    salt: str = ""
    preempt_first: PreemptFirst = 0


class SubmitBatch(Struct, frozen=True, tag="submit", tag_field="op"):
    """Sequences dispatched together. A sequence the engine already knows is not run twice."""

    batch: str
    sequences: list[Sequence]


class Cancel(Struct, frozen=True, tag="cancel", tag_field="op"):
    """Stop these sequences and free their pages at the next step; unknown ones are ignored."""

    ids: list[SequenceId]


class Revise(Struct, frozen=True, omit_defaults=True, tag="revise", tag_field="op"):
    """Advisory: the tokens each sequence is now expected to generate, and its `preempt_first`.

    Sequences that a mapping does not name keep what they have; unknown ones are ignored.
    """

    remaining: dict[SequenceId, Tokens]
    preempt_first: dict[SequenceId, PreemptFirst] = {}


class Preempt(Struct, frozen=True, tag="preempt", tag_field="op"):
    """Preempt these sequences before the next step, and report it as any other preemption.

    Those that do not run are ignored, and so are all in lock-step mode.
    """

    ids: list[SequenceId]


class Pin(Struct, frozen=True, tag="pin", tag_field="op"):
    """Keep the full pages of a prefix from eviction, once computed, under a name of the caller's.

    Pinned pages give way only where nothing could run otherwise.
    """

    name: str
    tokens: Annotated[list[int], Meta(min_length=1)]
    salt: str = ""


class Unpin(Struct, frozen=True, tag="unpin", tag_field="op"):
    """Let pinned prefixes go; unknown names are ignored."""

    names: list[str]


class Pause(Struct, frozen=True, tag="pause", tag_field="op"):
    """Compute nothing until `Resume`; what runs keeps its memory."""


class Drain(Struct, frozen=True, tag="drain", tag_field="op"):
    """Refuse new sequences until `Resume`; what is there runs to its end."""


class Resume(Struct, frozen=True, tag="resume", tag_field="op"):
    """End a pause or a drain. A new session begins with neither."""


class SetMode(Struct, frozen=True, tag="mode", tag_field="op"):
    """Batch by iteration, or in lock step; what runs starts anew in the other mode."""

    mode: Mode


Operation: TypeAlias = (
    SubmitBatch | Cancel | Revise | Preempt | Pin | Unpin | Pause | Drain | Resume | SetMode
)


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


class KvState(Struct, frozen=True, omit_defaults=True):
    """The engine's KV memory: pages in all, those to be had, and tokens a page.

    `cached` pages are among the free ones: nobody reads them, their prefixes may come again.
    `shared` ones have several readers or are pinned; `swapped` ones lie in host memory.
    """

    pages: int
    free: int
    page_tokens: int
    cached: int = 0
    shared: int = 0
    swapped: int = 0


class EngineInfo(Struct, frozen=True):
    """What the engine serves, fixed for its lifetime (`epoch`).

    It runs at most `max_running` sequences at once; 0 where it does not say.
    """

    epoch: str
    model: str
    context_tokens: int
    vocabulary: int
    stop_ids: list[int]
    kv: KvState
    device: str
    dtype: str
    max_running: int = 0


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


class StepTimes(Struct, frozen=True):
    """Where a step's time went, in seconds: composing and packing run beside the step before."""

    compose_s: float
    pack_s: float
    copy_s: float
    model_s: float
    idle_s: float  # between the end of the step before and the start of this one's model


class Step(Struct, frozen=True, omit_defaults=True, tag="step", tag_field="event"):
    """One engine step: each sequence's new token, who finished, who was preempted, the KV state.

    `running` counts preempted sequences too; `computed` are tokens run through the model.
    """

    number: int
    kv: KvState
    tokens: dict[SequenceId, list[int]]
    logprobs: dict[SequenceId, list[TokenLogprobs]] = {}
    finished: list[Finish] = []
    preempted: list[SequenceId] = []
    running: int = 0
    suspended: int = 0  # preempted and not resumed yet
    waiting: int = 0
    computed: int = 0
    took_s: float = 0.0
    times: StepTimes | None = None


class Heartbeat(Struct, frozen=True, omit_defaults=True, tag="heartbeat", tag_field="event"):
    """Nothing happened for a second; `busy_s` tells for how long a step has been under way."""

    number: int
    busy_s: float = 0.0


Event: TypeAlias = Hello | Step | Heartbeat


class EngineError(Struct, frozen=True):
    """The body of every engine answer that is not a success."""

    error: str
