"""The messages between gateway and engine. Both import this file, so it imports little.

`GET /info` answers `EngineInfo`. `POST /submit` takes a `Submission` and answers `Submitted`.
`GET /events?session=S&after=N` answers an endless NDJSON stream of `Event`s, the first of which is
a `Hello`. An epoch is the lifetime of one engine process: a gateway that reads another epoch than
before has lost its sequences and submits them again with the tokens already generated.
"""

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

SequenceId: TypeAlias = str
FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]
Mode: TypeAlias = Literal["continuous", "lockstep"]
KvPlacement: TypeAlias = Literal["device", "host-exact", "host-speculative"]
GrammarKind: TypeAlias = Literal["json_schema", "regex", "lark"]

HOST_PLACEMENTS: Final[tuple[KvPlacement, ...]] = ("host-exact", "host-speculative")

Tokens = Annotated[int, Meta(ge=0)]
PreemptFirst = Annotated[int, Meta(ge=0, le=9)]
Positive = Annotated[int, Meta(ge=1)]

BACKGROUND: Final = 2  # `preempt_first` of batch jobs: this and above yield to all other work


class Sampling(Struct, frozen=True, omit_defaults=True):
    """How the next token is sampled; randomness is a function of (seed, position).

    Applied in this order: `logit_bias`; `repetition_penalty` (prompt and generated tokens);
    `frequency_penalty` and `presence_penalty` (generated tokens); `allowed` ids, if any are given;
    `min_tokens` to generate before a stop id may follow; `bad_words`, as token ids, that must not
    be generated; temperature; `top_k` (0: all); `top_p`; `min_p`. `logprobs` = n requests the log
    probability of the sampled token and of the n likeliest ones, before temperature.
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
    min_tokens: Tokens = 0
    bad_words: list[Annotated[list[int], Meta(min_length=1)]] = []
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: int = 0


class Grammar(Struct, frozen=True):
    """The texts that a sequence may generate.

    `source` is a JSON schema, as JSON text; a regular expression that matches the whole text; or a
    context-free grammar in Lark's notation, with `start` as its first rule.
    """

    kind: GrammarKind
    source: str


class TokenLogprobs(Struct, frozen=True, gc=False):
    """The log probability of a sampled token, and the likeliest tokens with theirs."""

    logprob: float
    top: list[tuple[int, float]] = []


class Sequence(Struct, frozen=True, omit_defaults=True):
    """One sequence to run: its prompt, tokens generated before this submission, and its limits.

    `max_tokens` limits all generated tokens, including those in `generated`. `reserve` is the
    generation length, in tokens, to reserve KV memory for (the predicted upper quantile).
    Sequences of the same `salt` share the KV memory of equal prefixes; others never do. When
    memory runs out, the sequence with the highest `preempt_first` is preempted; one with a lower
    value starts before it. From `BACKGROUND` on, it takes only what others leave of each step.
    With a `grammar`, its tokens spell a text of it: a stop id is only sampled where that text may
    end, and where it cannot go on, the sequence ends with `stop`. `memory` is where its keys and
    values are: on the device, or in host memory, of which each step fetches everything, or what is
    predicted to matter. `expected` is the predicted length of its answer, in tokens; 0: not known.
    `seeded`: its client chose the seed, and expects the same answer to the same request. `whole`:
    no client reads its tokens as they come, so that several may come together.
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
    grammar: Grammar | None = None
    memory: KvPlacement = "device"
    expected: Tokens = 0
    seeded: bool = False
    whole: bool = False


class Pin(Struct, frozen=True, omit_defaults=True, tag="pin", tag_field="op"):
    """Protect the full pages of a prefix from eviction, under a name chosen by the caller.

    Pages that are computed later are pinned too. Pins take a bounded share of the memory; one that
    exceeds it, or whose pages are needed by sequences of a lower `preempt_first`, is released, and
    a step reports it in `unpinned`. The name can then be pinned again.
    """

    name: str
    tokens: Annotated[list[int], Meta(min_length=1)]
    salt: str = ""
    preempt_first: PreemptFirst = 0


class SubmitBatch(Struct, frozen=True, omit_defaults=True, tag="submit", tag_field="op"):
    """Sequences dispatched together. An id that the engine has seen is not run again.

    In lock-step mode they are one batch. `pins` are made before the sequences start.
    """

    batch: str
    sequences: list[Sequence]
    pins: list[Pin] = []


class Cancel(Struct, frozen=True, tag="cancel", tag_field="op"):
    """Stop these sequences and free their pages at the next step; unknown ids are ignored."""

    ids: list[SequenceId]


class Revise(Struct, frozen=True, omit_defaults=True, tag="revise", tag_field="op"):
    """Advisory: the number of tokens each sequence is still expected to generate.

    Also its `preempt_first`. A sequence missing from a mapping keeps its value.
    """

    remaining: dict[SequenceId, Tokens]
    preempt_first: dict[SequenceId, PreemptFirst] = {}


class Preempt(Struct, frozen=True, tag="preempt", tag_field="op"):
    """Preempt these sequences before the next step, and report it as any other preemption.

    Those that do not run are ignored, and so are all in lock-step mode.
    """

    ids: list[SequenceId]


class Unpin(Struct, frozen=True, tag="unpin", tag_field="op"):
    """Release pinned prefixes; unknown names are ignored."""

    names: list[str]


class Pause(Struct, frozen=True, tag="pause", tag_field="op"):
    """Compute nothing until `Resume`; running sequences keep their memory."""


class Drain(Struct, frozen=True, tag="drain", tag_field="op"):
    """Refuse new sequences until `Resume`; present ones run to their end."""


class Resume(Struct, frozen=True, tag="resume", tag_field="op"):
    """End a pause or a drain. A new session starts without either."""


class SetMode(Struct, frozen=True, tag="mode", tag_field="op"):
    """Batch by iteration or in lock step; running sequences start again in the new mode."""

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
    """A sequence that the engine will never run, and the reason."""

    id: SequenceId
    reason: str


class Submitted(Struct, frozen=True):
    """The answer to a submission. Sequences not in `refused` were accepted now or before."""

    epoch: str
    refused: list[Refused]


class KvState(Struct, frozen=True, omit_defaults=True):
    """The engine's KV memory: total pages, allocatable pages, and tokens per page.

    `free` includes the `cached` pages: no sequence reads them, they are kept for reuse. `shared`
    pages have several readers or are pinned, `pinned` ones are pinned; `swapped` pages are in host
    memory. `offload_free` of the `offload_pages` pages of sequences in host memory are free.
    """

    pages: int
    free: int
    page_tokens: int
    cached: int = 0
    shared: int = 0
    pinned: int = 0
    swapped: int = 0
    offload_pages: int = 0
    offload_free: int = 0


class Starting(Struct, frozen=True):
    """The answer, with status 503, of an engine that loads its model; `phase` is for people."""

    epoch: str
    phase: str


class HostCost(Struct, frozen=True):
    """Seconds that sequences in host memory add to a step in which they decode.

    `step_s` for all of them together, `row_s` for each, and `token_s` for each KV token of these.
    """

    step_s: float
    row_s: float
    token_s: float


class EngineInfo(Struct, frozen=True):
    """What the engine serves; constant during its lifetime (`epoch`).

    `max_running` sequences run at once at most, those from `BACKGROUND` on not counted, and a step
    computes at most `step_tokens` tokens; 0: the engine does not report it. `dtype_reason` is why
    the model is computed in `dtype`. A sequence in host memory may have `offload_context_tokens`;
    `offload_refusals` says why a placement is not served, `host_costs` what one costs, as
    measured at the start. A server that is not ours cannot do all that ours can: `refusals` says
    why, by the parameter of the API, the kind of grammar, `pause`, `pins` or `lockstep`; `probed`
    is what it showed when it was connected.
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
    step_tokens: int = 0
    dtype_reason: str = ""
    offload_context_tokens: int = 0
    offload_refusals: dict[KvPlacement, str] = {}
    host_costs: dict[KvPlacement, HostCost] = {}
    refusals: dict[str, str] = {}
    probed: dict[str, str | int | bool] = {}


class Finish(Struct, frozen=True, omit_defaults=True):
    """The end of a sequence: `stop` at a stop id (not in its tokens) or where its grammar ends,
    `length` at `max_tokens`. `stop_id` is the one that it stopped at.
    """

    id: SequenceId
    reason: FinishReason
    message: str | None = None
    stop_id: int | None = None


class Hello(Struct, frozen=True, tag="hello", tag_field="event"):
    """First line of a stream: the epoch, and the number of the newest event so far.

    `lost`: events after the requested number are no longer in the ring buffer.
    """

    epoch: str
    number: int
    lost: bool = False


class StepTimes(Struct, frozen=True):
    """Seconds spent in a step's phases; composing and packing overlap with the previous step."""

    compose_s: float
    pack_s: float
    copy_s: float
    model_s: float
    idle_s: float  # between the end of the previous step and the start of this one's model


class StepWork(Struct, frozen=True):
    """What a step computed, on which its time depends.

    `prompt_reads` is the KV tokens read by prompt tokens, each those before it, summed; `kv_tokens`
    is the KV tokens read by the sequences that decoded.
    """

    prompt_tokens: int
    prompt_reads: float
    sequences: int
    kv_tokens: int


class HostWork(Struct, frozen=True, omit_defaults=True):
    """What a step with sequences in host memory computed, on which its time depends.

    `work` is that of all its sequences, but for the KV tokens that those in host memory read.
    `exact_rows` and `speculative_rows` of them decoded, and had `exact_tokens` and
    `speculative_tokens`. A part of a prompt fetches all tokens before it, wherever it is: these are
    in `exact_tokens`, too.
    """

    work: StepWork
    exact_rows: int = 0
    exact_tokens: int = 0
    speculative_rows: int = 0
    speculative_tokens: int = 0


class Step(Struct, frozen=True, omit_defaults=True, tag="step", tag_field="event"):
    """One engine step: new tokens, finished and preempted sequences, and the KV state.

    Of a server that is not ours, it reports `steps` of its steps, which may be none or several:
    `took_s`, `computed` and `work` are of all of them.
    `returned` are the unfinished sequences of a lock-step batch that ran out of memory, or was too
    large to start; all their tokens have been published. The engine has forgotten them: the gateway
    submits them again under new ids, in smaller batches, with the tokens generated so far. A
    sequence that is alone in its batch always fits and is never returned. `reused` has, of each
    sequence that has read its prompt, the tokens of it that were not computed, since pages of an
    equal prefix were there; an engine that does not report them leaves it empty. `unpinned` are the
    pins released for lack of memory since the step before. `running` includes preempted sequences;
    `computed` is the number of tokens run through the model. `background_rows` is how many
    sequences from `BACKGROUND` on run at once at most; 0: the engine does not report it. `work` is
    None for a step with sequences in host memory, whose time depends on more: then there is
    `host_work`; `fetched_bytes` is what these copied to the device. The KV of a
    preempted token is copied to host memory, or back, in `swap_token_s`, as measured; 0: preempted
    sequences are always computed again. A server that is not ours takes
    `max_running` sequences now, 0 as many as `EngineInfo` says; since the step before it has
    preempted `unnamed_preemptions` sequences, it does not say which, and the streams of `retries`
    were opened again.
    """

    number: int
    kv: KvState
    tokens: dict[SequenceId, list[int]]
    logprobs: dict[SequenceId, list[TokenLogprobs]] = {}
    finished: list[Finish] = []
    preempted: list[SequenceId] = []
    returned: list[SequenceId] = []
    unpinned: list[str] = []
    running: int = 0
    suspended: int = 0  # preempted and not yet resumed
    waiting: int = 0
    background_rows: int = 0
    computed: int = 0
    steps: int = 1
    took_s: float = 0.0
    times: StepTimes | None = None
    work: StepWork | None = None
    reused: dict[SequenceId, Tokens] = {}
    fetched_bytes: int = 0
    host_work: HostWork | None = None
    swap_token_s: float = 0.0
    max_running: int = 0
    unnamed_preemptions: int = 0
    retries: int = 0


class Heartbeat(Struct, frozen=True, omit_defaults=True, tag="heartbeat", tag_field="event"):
    """No event for a second; `busy_s` is the time since the step in flight began, else 0."""

    number: int
    busy_s: float = 0.0


Event: TypeAlias = Hello | Step | Heartbeat


class EngineError(Struct, frozen=True):
    """The body of every error answer."""

    error: str
