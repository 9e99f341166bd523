"""Attention over part of the keys; the partial results of a query can be combined later."""

import torch
from torch import Tensor


def masked_score(dtype: torch.dtype) -> float:
    """Added to the score of an invisible key; finite, so that no sum is NaN."""
    return max(-1e30, torch.finfo(dtype).min / 2)


def attend_part(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend each item's queries over its keys: outputs and the logarithm of their total weight.

    Query (items, queries, dim), keys and values (items, tokens, dim) and mask (items, queries,
    tokens) give (items, queries, dim) and (items, queries) in float32.
    """
    scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scale).float()
    shares = torch.softmax(scores, -1)
    # The highest share is exp(highest score) / total weight: two cheap maxima replace a slow sum.
    weight = scores.amax(-1) - shares.amax(-1).log()
    return torch.bmm(shares.to(values.dtype), values), weight
