"""Sentence embeddings by the packaged all-MiniLM-L6-v2, with an optional cache folder."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.features.embedder import SentenceEncoder
from gateway.prediction.features.embedder_model import MAX_TEXT_TOKENS, packaged_embedder

BLOCK_TEXTS: Final = 512  # per cache file

Vectors = NDArray[np.float32]
Progress = Callable[[str], None]


class SentenceEmbedder:
    """Embeds each text once; the encoder is loaded on first use. A text takes milliseconds."""

    def __init__(self, threads: int, cache: Path | None, progress: Progress) -> None:
        self._threads = threads
        self._cache = cache
        self._progress = progress
        self._encoder: SentenceEncoder | None = None
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The embedding of each of n ≥ 1 texts, (n, 384) unit rows.

        With a cache folder, blocks of texts that were embedded before are read from it, others
        written to it.
        """
        new = sorted(set(texts) - self._known.keys())
        for start in range(0, len(new), BLOCK_TEXTS):
            block = new[start : start + BLOCK_TEXTS]
            vectors = self._block(block, f"{start} of {len(new)}")
            self._known.update(zip(block, vectors, strict=True))
        return np.stack([self._known[text] for text in texts])

    def _block(self, texts: list[str], done: str) -> Vectors:
        file = self._cache / f"{_digest(texts)}.npy" if self._cache else None
        if file and file.exists():
            return np.asarray(np.load(file), dtype=np.float32)
        if len(texts) == BLOCK_TEXTS:
            self._progress(f"embedding texts, {done} done")
        vectors = self._encode(texts)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, vectors.astype(np.float16))
        return vectors

    def _encode(self, texts: list[str]) -> Vectors:
        if self._encoder is None:
            self._encoder = SentenceEncoder(packaged_embedder(), self._threads)
        return self._encoder.vectors(texts)


def _digest(texts: list[str]) -> str:
    digest = sha256(f"{MAX_TEXT_TOKENS}".encode())
    for text in texts:
        digest.update(sha256(text.encode()).digest())
    return digest.hexdigest()
