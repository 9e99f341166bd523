"""The next token of every row of a step, on the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.sampling.batch import SamplingBatch
from engine.sampling.logprobs import Logprobs, logprobs


class SamplerOutput(NamedTuple):
    """A step's tokens, still on the device."""

    tokens: Tensor  # (rows,) int64; 0 where nothing could be drawn
    highest: Tensor  # (rows,) float32, after all edits
    logprobs: Logprobs | None

    @property
    def finite(self) -> Tensor:
        """Whether a row drew a token: its scores were numbers, and one was allowed. (rows,)."""
        return self.highest.isfinite()


def sample(logits: Tensor, batch: SamplingBatch, carried: Tensor | None = None) -> SamplerOutput:
    """Draw from logits (rows, vocabulary); never waits for the device.

    `carried` are the tokens that the previous step drew. What a row draws depends on its own
    logits and options alone, to the bit.
    """
    highest, tokens = _likeliest(logits, batch)
    for group in batch.groups:
        scores = logits.index_select(0, group.rows).float()
        group.edits.apply(scores, carried)
        top, drawn = scores.max(-1)
        if group.sampler is not None:
            drawn = group.sampler.sample(scores, top)
        highest.index_copy_(0, group.rows, top)
        tokens.index_copy_(0, group.rows, drawn)
    tokens = tokens.where(highest.isfinite(), 0)
    logprob_requests = batch.logprob_requests
    return SamplerOutput(
        tokens, highest, logprobs(logits, tokens, logprob_requests) if logprob_requests else None
    )


def _likeliest(logits: Tensor, batch: SamplingBatch) -> tuple[Tensor, Tensor]:
    """The highest logit of each row and its token, the first of equals: (rows,) each.

    Neither is computed where every row is in a group.
    """
    if batch.grouped == batch.rows:
        highest = logits.new_empty(batch.rows, dtype=torch.float32)
        return highest, logits.new_empty(batch.rows, dtype=torch.int64)
    best = logits.max(-1)  # of bfloat16 this is four times as fast on a CPU as argmax
    return best.values.float(), best.indices
