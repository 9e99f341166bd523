"""Which tokens of a host layer matter to a query, predicted from 4-bit codes of their keys.

InfiniGen (arXiv 2406.19707, §4.3) predicts a layer's queries from the layer before it, and scores
from a few dimensions of rotated keys. Four bits of every dimension take less memory than three
tenths of the dimensions, need no sample text to choose a rotation by, and lose less.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

HIGHEST: Final = 15  # of the codes, from 0
CODED_DIMS: Final = 2  # in a byte
SMALLEST_STEP: Final = 1e-12  # where all keys have one value


class CodeScale(NamedTuple):
    """Of each dimension of a key head, (kv_heads, dim): the value of code 0, and of a step."""

    low: Tensor
    step: Tensor


def scale_of(keys: Tensor) -> CodeScale:
    """The scale that covers these keys, (kv_heads, tokens, dim)."""
    low, high = keys.float().aminmax(dim=1)
    return CodeScale(low, ((high - low) / HIGHEST).clamp_(min=SMALLEST_STEP))


def encode(keys: Tensor, scale: CodeScale) -> Tensor:
    """The codes of keys (kv_heads, tokens, dim), two to a byte: (kv_heads, tokens, dim / 2).

    A byte has a dimension of the first half in its lower bits, one of the second in its upper.
    """
    codes = (keys.float() - scale.low[:, None]) / scale.step[:, None]
    first, second = codes.round_().clamp_(0, HIGHEST).to(torch.uint8).chunk(CODED_DIMS, -1)
    return first | (second << 4)


def predicted_scores(query: Tensor, codes: Tensor, step: Tensor, scale: float) -> Tensor:
    """Scores of coded keys, each query's up to a constant of its own.

    Queries (rows, heads, dim) and codes (kv_heads, tokens, dim / 2) give
    (kv_heads, heads / kv_heads, rows, tokens).
    """
    kv_heads = codes.shape[0]
    grouped = query.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    weights = (grouped * (step * scale)[:, None, None]).to(query.dtype)
    scores: Tensor | float = 0.0
    halves = codes & HIGHEST, codes >> 4
    for part, half in zip(weights.chunk(CODED_DIMS, -1), halves, strict=True):
        values = half.to(query.dtype) - HIGHEST / 2  # around 0: fewer digits are lost
        scores = scores + part @ values[:, None].transpose(2, 3)
    assert isinstance(scores, Tensor)
    return scores.float()


def group_attention(scores: Tensor) -> Tensor:
    """The attention that each token gets, summed over the queries of a group.

    Scores (kv_heads, group, rows, tokens) give (kv_heads, rows, tokens).
    """
    return scores.softmax(-1).sum(1)


def likeliest(scores: Tensor, count: int) -> Tensor:
    """The tokens of the highest scores of each key head: (kv_heads, count)."""
    if count == scores.shape[1]:
        return torch.arange(count, device=scores.device).expand(scores.shape[0], -1)
    return scores.topk(count, -1, sorted=False).indices
