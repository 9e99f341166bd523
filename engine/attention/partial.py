"""Attention over some of the keys, such that the parts of one query can be put together later."""

import torch
from torch import Tensor


def masked_score(dtype: torch.dtype) -> float:
    """What is added to the score of a key that is not seen; finite, so that no sum is NaN."""
    return max(-1e30, torch.finfo(dtype).min / 2)


def attend_part(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Each item's queries over the item's keys: outputs, and the logarithm of their total weight.

    Query (items, queries, dim), keys and values (items, tokens, dim), mask (items, queries,
    tokens) give (items, queries, dim) and (items, queries) in float32.
    """
    scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scale).float()
    shares = torch.softmax(scores, -1)
    # The highest share is exp(highest score) / total weight: two cheap maxima spare a slow sum.
    weight = scores.amax(-1) - shares.amax(-1).log()
    return torch.bmm(shares.to(values.dtype), values), weight
