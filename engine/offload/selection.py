"""Which tokens of a host layer matter to a query, predicted from a few dimensions of their keys.

InfiniGen (arXiv 2406.19707, §4.3 and §5) for rotary embeddings and grouped queries: the rotation
that concentrates a head's scores in few dimensions is applied after the rotary embedding, and is
shared by the query heads of a key head.
"""

import torch
from torch import Tensor


def skew_of(query: Tensor, kv_heads: int) -> Tensor:
    """The rotation of each key head that sorts dimensions by the queries' energy.

    Queries (tokens, heads, dim) of a sample text give (kv_heads, dim, dim), orthogonal: the right
    singular vectors of all queries that read a key head (§5.2).
    """
    tokens, heads, dim = query.shape
    grouped = query.float().view(tokens, kv_heads, heads // kv_heads, dim)
    stacked = grouped.permute(1, 0, 2, 3).reshape(kv_heads, -1, dim)
    rotation: Tensor = torch.linalg.svd(stacked, full_matrices=False).Vh.transpose(1, 2)
    return rotation.contiguous()


def energy(rows: Tensor, skew: Tensor) -> Tensor:
    """The magnitude of rows (kv_heads, n, dim) in each rotated dimension: (kv_heads, dim)."""
    return (rows @ skew).abs().float().sum(1)


def strongest_dims(query_energy: Tensor, key_energy: Tensor, count: int) -> Tensor:
    """The dimensions that predict scores best (§5.2): (kv_heads, count) of (kv_heads, dim)."""
    return (query_energy + key_energy).topk(count, -1).indices


def partial_keys(keys: Tensor, skew: Tensor, dims: Tensor) -> Tensor:
    """The chosen dimensions of keys (kv_heads, n, dim), rotated: (kv_heads, n, count)."""
    return (keys @ skew).gather(2, dims[:, None].expand(-1, keys.shape[1], -1))


def predicted_scores(
    query: Tensor, skew: Tensor, dims: Tensor, partial: Tensor, scale: float
) -> Tensor:
    """How high each token may score for any query of its group, relative to that query's best.

    Query (heads, dim) and partial keys (kv_heads, tokens, count) give (kv_heads, tokens), at most
    0: the union over the group keeps what matters to any of its heads.
    """
    kv_heads, _, count = partial.shape
    grouped = query.view(kv_heads, -1, query.shape[-1]) @ skew
    chosen = grouped.gather(2, dims[:, None].expand(-1, grouped.shape[1], count))
    scores = (chosen @ partial.transpose(1, 2)).float() * scale
    return (scores - scores.amax(-1, keepdim=True)).amax(1)


def likeliest(scores: Tensor, count: int) -> Tensor:
    """The tokens of the highest scores of each key head: (kv_heads, count)."""
    if count == scores.shape[1]:
        return torch.arange(count, device=scores.device).expand(scores.shape[0], -1)
    return scores.topk(count, -1, sorted=False).indices
