"""The keys and values of a text, and what selectors learn from its prompt."""

import torch
from torch import Tensor


class TextMemory:
    """Keys and values of a text by layer, (kv_heads, tokens, dim), with room for what follows.

    `received`, (kv_heads, tokens), is the attention that each token of the prompt got from all.
    """

    def __init__(self, layers: int, kv_heads: int, dim: int, tokens: int) -> None:
        self.keys = [torch.zeros(kv_heads, tokens, dim) for _ in range(layers)]
        self.values = [torch.zeros(kv_heads, tokens, dim) for _ in range(layers)]
        self.received = [torch.zeros(kv_heads, tokens) for _ in range(layers)]
        self.prompt = 0
        self._queries: list[list[Tensor]] = [[] for _ in range(layers)]

    def read(
        self, layer: int, start: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """Attend a chunk of the prompt in full, and learn from it: (rows, heads, dim)."""
        keys, values = self.write(layer, start, key, value)
        shares = probabilities(query, keys, scale, causal(start, len(query)))
        self.received[layer][:, : keys.shape[1]] += shares.sum((1, 2))
        self._queries[layer].append(query)
        return weighted(shares, values)

    def write(self, layer: int, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store a chunk's rows, (rows, kv_heads, dim); all keys and values up to them."""
        stop = start + key.shape[0]
        self.keys[layer][:, start:stop] = key.transpose(0, 1)
        self.values[layer][:, start:stop] = value.transpose(0, 1)
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def prompt_keys(self, layer: int) -> Tensor:
        """The keys of the prompt: (kv_heads, tokens, dim)."""
        return self.keys[layer][:, : self.prompt]

    def grouped_queries(self, layer: int) -> Tensor:
        """All queries of the prompt that read a key head: (kv_heads, group · tokens, dim)."""
        queries: Tensor = torch.cat(self._queries[layer])
        kv_heads = self.keys[layer].shape[0]
        grouped: Tensor = queries.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
        return grouped.flatten(1, 2)


def causal(start: int, rows: int) -> Tensor:
    """Which tokens a chunk's rows see, themselves included: (1, rows, start + rows)."""
    tokens = torch.arange(start + rows)
    return (tokens <= tokens[start:, None])[None]


def before(start: int, rows: int) -> Tensor:
    """Which tokens come before each row: (1, rows, start + rows)."""
    tokens = torch.arange(start + rows)
    return (tokens < tokens[start:, None])[None]


def probabilities(query: Tensor, keys: Tensor, scale: float, seen: Tensor) -> Tensor:
    """Attention of queries (rows, heads, dim) over `seen`, (kv_heads or 1, rows, tokens).

    Of the shape (kv_heads, group, rows, tokens).
    """
    kv_heads = keys.shape[0]
    grouped = query.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)
    scores = grouped @ keys[:, None].transpose(2, 3) * scale
    shares: Tensor = scores.masked_fill_(~seen[:, None], -torch.inf).softmax(-1)
    return shares


def weighted(shares: Tensor, values: Tensor) -> Tensor:
    """The attended values of `probabilities`: (rows, heads, dim)."""
    attended: Tensor = shares @ values[:, None]
    return attended.permute(2, 0, 1, 3).flatten(1, 2)
