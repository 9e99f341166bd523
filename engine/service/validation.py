"""Validation of submitted sequences and pins."""

from collections.abc import Collection as Ids

from engine.protocol import BACKGROUND, EngineInfo, Pin, Sequence


def rejection_reason(sequence: Sequence, info: EngineInfo) -> str | None:
    """The reason why this engine can never run a sequence, or None.

    The engine's `context_tokens` are limited by its KV pool, so valid sequences also fit the pool;
    those of sequences in host memory likewise.
    """
    if sequence.memory in info.offload_refusals:
        return f"memory {sequence.memory}: {info.offload_refusals[sequence.memory]}"
    on_device = sequence.memory == "device"
    if not on_device and sequence.preempt_first >= BACKGROUND:
        return f"memory {sequence.memory}: background sequences are on the device"
    sampling = sequence.sampling
    fields = (
        sequence.prompt,
        sequence.generated,
        sequence.stop_ids,
        sampling.allowed,
        sampling.logit_bias,
        *sampling.bad_words,
    )
    unknown_id = _outside(info.vocabulary, *fields)
    if unknown_id is not None:
        return f"token id {unknown_id} is outside the vocabulary of {info.vocabulary}"
    if len(sequence.generated) > sequence.max_tokens:
        return (
            f"{len(sequence.generated)} tokens are generated, max_tokens is {sequence.max_tokens}"
        )
    tokens = len(sequence.prompt) + sequence.max_tokens
    limit = info.context_tokens if on_device else info.offload_context_tokens
    if tokens > limit:
        where = "context" if on_device else "context in host memory"
        return f"prompt and max_tokens come to {tokens} tokens, the engine's {where} is {limit}"
    return None


def pin_rejection_reason(pin: Pin, info: EngineInfo) -> str | None:
    """The reason why no sequence of this engine can have a pin's prefix, or None."""
    unknown_id = _outside(info.vocabulary, pin.tokens)
    if unknown_id is not None:
        return f"token id {unknown_id} is outside the vocabulary of {info.vocabulary}"
    if len(pin.tokens) > info.context_tokens:
        return f"{len(pin.tokens)} tokens, the engine's context is {info.context_tokens}"
    return None


def _outside(vocabulary: int, *fields: Ids[int]) -> int | None:
    """A token id outside 0 … vocabulary - 1, or None."""
    for field in fields:
        for token_id in (min(field, default=0), max(field, default=0)):
            if not 0 <= token_id < vocabulary:
                return token_id
    return None
