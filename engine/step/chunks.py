"""The parts of a step: chunks of sequences."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from engine.protocol import HostWork, StepWork
from engine.step.memory import KvMemory, PageCopies
from engine.step.sequence import SequenceState

PROMPT_SHARE: Final = 1 / 8  # of a step that has more decoding sequences than tokens


class Chunk(NamedTuple):
    """Tokens `start` … `start + length - 1` of a sequence, computed in this step.

    `samples_token`: the chunk ends the known tokens, so the next token is sampled after it.
    `carry`: its last token is the one that the previous step samples in this row.
    """

    sequence: SequenceState
    start: int
    length: int
    samples_token: bool
    carry: int | None


class StepPlan(NamedTuple):
    """One step: chunks of a single token first, then longer ones; page copies before it runs.

    `returned`: a lock-step batch that lacks memory and has left the composer.
    """

    chunks: list[Chunk]
    preempted: list[SequenceState]
    copies: PageCopies
    returned: Sequence[SequenceState] = ()


def take_chunk(memory: KvMemory, sequence: SequenceState, max_tokens: int) -> Chunk:
    """Up to `max_tokens` tokens of a sequence, as far as pages allow; counts them as computed."""
    length = memory.grow(sequence, min(sequence.uncomputed, max_tokens))
    chunk = next_chunk(sequence, length)
    if sequence.computed >= memory.pool.page_tokens * (len(sequence.nodes) + 1):
        memory.cache_pages(sequence)
    return chunk


def next_chunk(sequence: SequenceState, length: int) -> Chunk:
    """The next `length` tokens of a sequence, which has pages for them; counts them as computed."""
    start, samples_token = sequence.computed, length == sequence.uncomputed
    carry = sequence.sample_row if samples_token and sequence.in_flight else None
    sequence.computed += length
    sequence.in_flight += samples_token
    return Chunk(sequence, start, length, samples_token, carry)


def order_chunks(chunks: list[Chunk]) -> list[Chunk]:
    """Order chunks for a step and set each sequence's `sample_row`."""
    chunks.sort(key=lambda chunk: chunk.length > 1)
    for row, chunk in enumerate(chunk for chunk in chunks if chunk.samples_token):
        chunk.sequence.sample_row = row
    return chunks


def reads_host(chunks: Iterable[Chunk]) -> bool:
    """Whether any of the chunks belongs to a sequence in host memory."""
    return any(chunk.sequence.on_host for chunk in chunks)


def work_of(chunks: Iterable[Chunk]) -> StepWork:
    """What the chunks compute; one of a single token counts as decoding."""
    prompts: list[Chunk] = []
    decoding: list[Chunk] = []
    for chunk in chunks:
        (prompts if chunk.length > 1 else decoding).append(chunk)
    return StepWork(
        prompt_tokens=sum(chunk.length for chunk in prompts),
        prompt_reads=sum(chunk.length * (chunk.start + chunk.length / 2) for chunk in prompts),
        sequences=len(decoding),
        kv_tokens=sum(chunk.start + 1 for chunk in decoding),
    )


def host_work_of(chunks: Iterable[Chunk]) -> HostWork:
    """What the chunks compute if some of their sequences are in host memory."""
    device: list[Chunk] = []
    host: list[Chunk] = []
    for chunk in chunks:
        (host if chunk.sequence.on_host else device).append(chunk)
    work, fetching = work_of(device), work_of(host)
    speculative = [c for c in host if c.length == 1 and c.sequence.memory == "host-speculative"]
    speculative_tokens = sum(chunk.start + 1 for chunk in speculative)
    earlier = sum(chunk.start for chunk in host if chunk.length > 1)
    return HostWork(
        StepWork(
            work.prompt_tokens + fetching.prompt_tokens,
            work.prompt_reads + fetching.prompt_reads,
            work.sequences + fetching.sequences,
            work.kv_tokens,
        ),
        exact_rows=fetching.sequences - len(speculative),
        exact_tokens=fetching.kv_tokens - speculative_tokens + earlier,
        speculative_rows=len(speculative),
        speculative_tokens=speculative_tokens,
    )


def decoding_rows(decoding: int, tokens: int, *, prompts: bool) -> int:
    """How many of the decoding sequences get one of a step's tokens; `prompts` keep a share.

    At least one does: a prompt that has its share may lack memory until a decoding sequence ends.
    """
    if decoding + prompts <= tokens:
        return decoding
    return max(min(tokens, 1), tokens - (max(1, int(PROMPT_SHARE * tokens)) if prompts else 0))
