"""Runs the model on a step's chunks and draws the next tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attention.reference import PagedStep
from engine.composer import Chunk
from engine.errors import StartupFailure
from engine.kv.store import KvStore
from engine.model import LoadedModel
from engine.packing import Packed, pack
from engine.sampling import Draw, sample
from engine.sequence import LiveSequence


class Runner:
    """The model with its KV memory; used by one thread at a time."""

    def __init__(self, model: LoadedModel, pages: int, page_tokens: int) -> None:
        self.model = model
        self._page_tokens = page_tokens
        try:
            self._store = KvStore(model.kv_shape, pages, page_tokens, model.dtype, model.device)
        except (RuntimeError, MemoryError) as error:
            raise StartupFailure(
                f"LMAAS_KV_TOKENS: no memory for {pages} pages of {page_tokens} tokens"
            ) from error

    def run(self, chunks: Sequence[Chunk]) -> list[int | None]:
        """The next token of every chunk that completes its sequence, in the chunks' order.

        None where the model's scores are no numbers. Keys and values are kept on the way.
        """
        packed = pack(chunks, self._page_tokens, self.model.device)
        with torch.inference_mode():
            logits = self._forward(packed)
            return sample(logits, [_draw(c.sequence) for c in chunks if c.completes])

    def scrub(self, pages: Sequence[int]) -> None:
        """Zero pages whose content may be no numbers."""
        self._store.scrub(pages)

    def probe(self, page: int) -> None:
        """Run one token on a free page; raises what the model raises."""
        sequence = LiveSequence("probe", 0, [0], 1, 1, 1, 1, pages=[page])
        self.run([Chunk(sequence, 0, 1)])

    def _forward(self, packed: Packed) -> Tensor:
        """Logits of the rows that a token is drawn from: (samples, vocabulary)."""
        logits: Tensor = self.model.network(
            input_ids=packed.token_ids,
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=packed.last,
            paged=PagedStep(packed, self._store),
        ).logits
        return logits[0]


def _draw(sequence: LiveSequence) -> Draw:
    return Draw(sequence.sampling, len(sequence.tokens))
