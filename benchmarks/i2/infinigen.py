"""InfiniGen's prediction as published: scores from the strongest dimensions of rotated keys.

arXiv 2406.19707, §4.3 and §5, for rotary embeddings and grouped queries: the rotation that
concentrates a head's scores in few dimensions is applied after the rotary embedding, and is shared
by the query heads of a key head.
"""

from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.i2.forced import read_prompt
from benchmarks.i2.memory import TextMemory
from benchmarks.i2.selectors import Budget, ChunkRows, highest
from engine.running.loaded_model import LoadedModel

DIMENSIONS: Final = 0.3  # the share of a key's dimensions (§5.2)
SAMPLE_TOKENS: Final = 2_048  # (§5.2)
ALPHA: Final = 5.0  # as for Llama-2 (§5.3)


def skew_of(queries: Tensor) -> Tensor:
    """The rotation of each key head that sorts dimensions by the queries' energy.

    Queries (kv_heads, n, dim) of a sample text give (kv_heads, dim, dim), orthogonal: the right
    singular vectors of all queries that read a key head (§5.2).
    """
    rotation: Tensor = torch.linalg.svd(queries, full_matrices=False).Vh.transpose(1, 2)
    return rotation.contiguous()


def skew_of_sample(model: LoadedModel, folder: Path) -> list[Tensor]:
    """The rotation of each layer, by Python's own documentation."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - large, and read once

    encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "\n".join(topics.values())[: 16 * SAMPLE_TOKENS]
    ids = encoder.encode(text, add_special_tokens=False).ids[:SAMPLE_TOKENS]
    memory = read_prompt(model, ids, len(ids))
    return [skew_of(memory.grouped_queries(layer)) for layer in range(model.kv_shape.layers)]


class InfiniGen:
    """The tokens of the highest predicted scores, at most the budget.

    A token counts whose score is within `alpha` of its query's best; each key head takes the same
    number, their mean. `skew` has a rotation for each layer.
    """

    def __init__(
        self, memory: TextMemory, budget: Budget, skew: list[Tensor], alpha: float = ALPHA
    ) -> None:
        self._budget = budget
        self._skew = skew
        self._alpha = alpha
        self._dims = []
        for layer, rotation in enumerate(skew):
            queries, keys = memory.grouped_queries(layer), memory.prompt_keys(layer)
            group = queries.shape[1] / keys.shape[1]
            energy = (queries @ rotation).abs().sum(1) / group + (keys @ rotation).abs().sum(1)
            self._dims.append(energy.topk(round(DIMENSIONS * keys.shape[2]), -1).indices)

    def choose(self, rows: ChunkRows) -> Tensor:
        """The choice of a chunk's rows."""
        kv_heads, _, dim = rows.keys.shape
        skew, dims = self._skew[rows.layer], self._dims[rows.layer]
        partial = (rows.keys @ skew).gather(2, dims[:, None].expand(-1, rows.keys.shape[1], -1))
        rotated = rows.foreseen.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3) @ skew[:, None]
        chosen = rotated.gather(3, dims[:, None, None].expand(*rotated.shape[:3], -1))
        scores = chosen @ partial[:, None].transpose(2, 3) * dim**-0.5
        scores = scores.masked_fill_(~rows.before[:, None], -torch.inf)
        relative = (scores - scores.amax(-1, keepdim=True)).amax(1)
        near = (relative > -self._alpha).sum(-1).float().mean(0).long().tolist()
        most = rows.counts(self._budget)
        counts = [max(min(pair), 1) for pair in zip(most, near, strict=True)]
        return highest(relative, rows.start, counts)
