"""Which tokens of a host layer matter to a query, predicted from 4-bit codes of their keys.

InfiniGen (arXiv 2406.19707, §4.3) predicts a layer's queries from the layer before it, and scores
from a few dimensions of rotated keys. Four bits of every dimension take less memory than three
tenths of the dimensions, need no sample text to choose a rotation by, and lose less.

In the shapes, `heads` stands for any leading dimensions, such as (sequences, kv_heads); the last
of them are key heads, each read by a group of queries.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

HIGHEST: Final = 15  # of the codes, from 0
CODED_DIMS: Final = 2  # in a byte
SMALLEST_STEP: Final = 1e-12  # where all keys have one value


class CodeScale(NamedTuple):
    """Of each dimension of a key head, (heads, dim): the value of code 0, and of a step."""

    low: Tensor
    step: Tensor


def scale_of(keys: Tensor) -> CodeScale:
    """The scale that covers these keys, (heads, tokens, dim)."""
    low, high = keys.float().aminmax(dim=-2)
    return CodeScale(low, ((high - low) / HIGHEST).clamp_(min=SMALLEST_STEP))


def encode(keys: Tensor, scale: CodeScale) -> Tensor:
    """The codes of keys (heads, tokens, dim), two to a byte: (heads, tokens, dim / 2).

    A byte has a dimension of the first half in its lower bits, one of the second in its upper.
    """
    codes = (keys.float() - scale.low.unsqueeze(-2)) / scale.step.unsqueeze(-2)
    first, second = codes.round_().clamp_(0, HIGHEST).to(torch.uint8).chunk(CODED_DIMS, -1)
    return first | (second << 4)


def predicted_scores(query: Tensor, codes: Tensor, step: Tensor, scale: float) -> Tensor:
    """Scores of coded keys, each query's up to a constant of its own: (heads, queries, tokens).

    Of queries (heads, queries, dim) and codes (heads, tokens, dim / 2); `step` is (heads, dim).
    """
    weights = (query * (step * scale).unsqueeze(-2)).to(query.dtype)
    first, second = weights.chunk(CODED_DIMS, -1)
    values = torch.empty_like(codes, dtype=query.dtype)
    # Around 0, so that fewer digits are lost.
    scores = first @ values.copy_(codes & HIGHEST).sub_(HIGHEST / 2).transpose(-2, -1)
    scores += second @ values.copy_(codes >> 4).sub_(HIGHEST / 2).transpose(-2, -1)
    return scores.float()


def group_attention(scores: Tensor) -> Tensor:
    """The attention that each token gets, summed over the queries of a group.

    Scores (heads, group, tokens) give (heads, tokens).
    """
    return scores.softmax(-1).sum(-2)


def likeliest(scores: Tensor, count: int, *, ranked: bool = False) -> Tensor:
    """The tokens of the highest scores, (heads, tokens): (heads, count).

    `ranked`: the highest first; else in any order.
    """
    if count == scores.shape[-1] and not ranked:
        return torch.arange(count, device=scores.device).expand(*scores.shape[:-1], -1)
    return scores.topk(count, -1, sorted=ranked).indices
