"""Samples the next token of each row of a step, on the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.sampling.batch import SamplingBatch
from engine.sampling.logprobs import Logprobs, logprobs


class SamplerOutput(NamedTuple):
    """A step's sampled tokens, on the device."""

    tokens: Tensor  # (rows,) int64; 0 if none could be sampled
    highest: Tensor  # (rows,) float32, the highest score after all edits
    logprobs: Logprobs | None

    @property
    def finite(self) -> Tensor:
        """Whether each row has a token: scores were finite and one was allowed. (rows,)."""
        return self.highest.isfinite()


def sample(logits: Tensor, batch: SamplingBatch, carried: Tensor | None = None) -> SamplerOutput:
    """Sample from logits (rows, vocabulary); never waits for the device.

    `carried` are the tokens of the previous step. A row's token depends only on its own
    logits and parameters, to the bit.
    """
    highest, tokens = _likeliest(logits, batch)
    for group in batch.groups:
        scores = logits.index_select(0, group.rows).float()
        group.edits.apply(scores, carried)
        top, sampled = scores.max(-1)
        if group.sampler is not None:
            sampled = group.sampler.sample(scores, top)
        highest.index_copy_(0, group.rows, top)
        tokens.index_copy_(0, group.rows, sampled)
    tokens = tokens.where(highest.isfinite(), 0)
    logprob_requests = batch.logprob_requests
    return SamplerOutput(
        tokens, highest, logprobs(logits, tokens, logprob_requests) if logprob_requests else None
    )


def _likeliest(logits: Tensor, batch: SamplingBatch) -> tuple[Tensor, Tensor]:
    """The highest logit of each row and its token, the lowest id among equals: (rows,) each.

    Uninitialised if every row is in a group.
    """
    if batch.grouped == batch.rows:
        highest = logits.new_empty(batch.rows, dtype=torch.float32)
        return highest, logits.new_empty(batch.rows, dtype=torch.int64)
    best = logits.max(-1)  # on a CPU, for bfloat16, four times as fast as argmax
    return best.values.float(), best.indices
