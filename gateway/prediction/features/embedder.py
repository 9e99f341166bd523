"""Sentence embeddings of instructions and of user inputs, computed in the background.

Only the predictor process loads the model. One thread embeds what waits, in micro-batches of texts
of similar length, and keeps the newest embeddings. Beyond MAX_QUEUED_TEXTS a text is shed: the
first reply of its request is the only one, and training does without its embedding.
"""

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from threading import Condition, Thread
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
import structlog
from msgspec import Struct
from numpy.typing import NDArray

from gateway.prediction.features.embedder_model import MAX_TEXT_TOKENS, EmbedderModel
from gateway.prediction.work_limits import IMPORTING, WorkLimits

BATCH_TEXTS: Final = 16
WINDOW_TEXTS: Final = 64  # of which each batch takes texts of similar length
MAX_QUEUED_TEXTS: Final = 512  # user inputs: three to four seconds of one core
MAX_CACHED: Final = 4_096  # embeddings of instructions, and as many of user inputs
THREAD_NAME: Final = "embedder"
LOAD_LIMIT_S: Final = 600.0  # libraries come from a cold disk of a busy machine
BATCH_LIMIT_S: Final = 120.0  # a tenth of a second of a core that others have first

Vectors: TypeAlias = NDArray[np.float32]
Payload = TypeVar("Payload")

log = structlog.get_logger()


class Embedded(Struct, Generic[Payload], frozen=True):
    """A payload whose text has its embedding now; None if it was not computed in time."""

    payload: Payload
    embedding: bytes | None


class _Queued(Struct, Generic[Payload], frozen=True):
    key: bytes
    text: str
    deadline_s: float
    payload: Payload


class Embedder(Generic[Payload]):
    """Embeds the texts of payloads and hands each on to `deliver`, in the embedder's thread.

    An embedding is a unit vector as float16 bytes. If there is no model, every text is shed.
    Loading the model and each micro-batch are bounded by `limits`.
    """

    def __init__(
        self,
        model: EmbedderModel,
        deliver: Callable[[Embedded[Payload]], None],
        limits: WorkLimits,
    ) -> None:
        self.model = model
        self._limits = limits
        self._deliver = deliver
        self._changed = Condition()
        self._instructions: OrderedDict[bytes, bytes | None] = OrderedDict()  # None: queued
        self._inputs: OrderedDict[bytes, bytes] = OrderedDict()
        self._new_instructions: deque[tuple[bytes, str]] = deque()
        self._queue: deque[_Queued[Payload]] = deque()
        self._sheds_all = not model.embeds
        if model.embeds:
            Thread(target=self._run, name=THREAD_NAME, daemon=True).start()

    def instruction(self, instruction_hash: bytes, instruction: str) -> bytes | None:
        """The embedding of an instruction; None until it is computed."""
        with self._changed:
            if instruction_hash in self._instructions:
                self._instructions.move_to_end(instruction_hash)
                return self._instructions[instruction_hash]
            if self._sheds_all or len(self._new_instructions) >= MAX_CACHED:
                return None  # queued again by the next request
            self._new_instructions.append((instruction_hash, instruction))
            _keep(self._instructions, instruction_hash, None)
            self._changed.notify()
        return None

    def submit(self, text: str, payload: Payload, deadline_s: float) -> bool:
        """Queue a text, to be embedded before the monotonic clock passes `deadline_s`.

        False if it is shed, since too many wait or the model could not be loaded.
        """
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        with self._changed:
            known = self._inputs.get(key)
            if known is None:
                if self._sheds_all or len(self._queue) >= MAX_QUEUED_TEXTS:
                    return False
                self._queue.append(_Queued(key, text, deadline_s, payload))
                self._changed.notify()
                return True
            self._inputs.move_to_end(key)
        self._deliver(Embedded(payload, known))
        return True

    @property
    def queued(self) -> int:
        """The number of texts that wait."""
        return len(self._queue)

    def _run(self) -> None:
        try:
            with self._limits.limit("load the embedder", LOAD_LIMIT_S):
                encoder = SentenceEncoder(self.model)
            log.info("embedder_ready", model=self.model.id)
            while True:
                self._embed(encoder, *self._take())
        except Exception as error:
            log.exception("embedder_failed", model=self.model.id, reason=str(error))
            self._give_up()

    def _take(self) -> tuple[list[tuple[bytes, str]], list[_Queued[Payload]]]:
        """New instructions and the oldest texts of the queue; waits for one of them."""
        with self._changed:
            while not (self._new_instructions or self._queue):
                self._changed.wait()
            instructions = [*self._new_instructions]
            self._new_instructions.clear()
            size = min(len(self._queue), WINDOW_TEXTS)
            return instructions, [self._queue.popleft() for _ in range(size)]

    def _embed(
        self,
        encoder: "SentenceEncoder",
        instructions: Sequence[tuple[bytes, str]],
        window: Sequence[_Queued[Payload]],
    ) -> None:
        for batch in _batches(instructions):
            vectors = self._vectors(encoder, [text for _, text in batch])
            with self._changed:
                for (key, _), vector in zip(batch, vectors, strict=True):
                    _keep(self._instructions, key, vector)
        waiting: dict[bytes, list[_Queued[Payload]]] = {}
        for queued in window:
            waiting.setdefault(queued.key, []).append(queued)
        texts = sorted(
            ((key, same[0].text) for key, same in waiting.items()), key=lambda each: len(each[1])
        )
        for batch in _batches(texts):
            self._embed_batch(encoder, batch, waiting)

    def _embed_batch(
        self,
        encoder: "SentenceEncoder",
        batch: Sequence[tuple[bytes, str]],
        waiting: dict[bytes, list[_Queued[Payload]]],
    ) -> None:
        now_s = time.monotonic()
        in_time = [
            (key, text)
            for key, text in batch
            if any(queued.deadline_s > now_s for queued in waiting[key])
        ]
        vectors = self._vectors(encoder, [text for _, text in in_time])
        found = dict(zip((key for key, _ in in_time), vectors, strict=True))
        with self._changed:
            for key, vector in found.items():
                _keep(self._inputs, key, vector)
        for key, _ in batch:
            for queued in waiting[key]:
                self._deliver(Embedded(queued.payload, found.get(key)))

    def _vectors(self, encoder: "SentenceEncoder", texts: Sequence[str]) -> list[bytes]:
        with self._limits.limit("embed texts", BATCH_LIMIT_S):
            return encoder.embed(texts)

    def _give_up(self) -> None:
        with self._changed:
            self._sheds_all = True
            left = [*self._queue]
            self._queue.clear()
        for queued in left:
            self._deliver(Embedded(queued.payload, None))


class SentenceEncoder:
    """A loaded sentence-transformers model on one core."""

    def __init__(self, model: EmbedderModel, threads: int = 1) -> None:
        with IMPORTING:  # here, since it takes seconds
            import torch  # noqa: PLC0415
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        torch.set_num_threads(threads)
        self._encoder: Any = SentenceTransformer(model.folder, device="cpu")
        limit = self._encoder.max_seq_length or MAX_TEXT_TOKENS
        self._encoder.max_seq_length = min(limit, MAX_TEXT_TOKENS)
        self._dims = model.dims

    def embed(self, texts: Sequence[str]) -> list[bytes]:
        """The embedding of each text, as float16 bytes.

        RuntimeError if the model makes vectors of another width than its configuration says.
        """
        return [vector.tobytes() for vector in self.vectors(texts).astype(np.float16)]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """The embeddings of n texts, (n, dims) unit rows."""
        if not texts:
            return np.empty((0, self._dims), dtype=np.float32)
        found = self._encoder.encode(
            list(texts),
            batch_size=BATCH_TEXTS,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        if found.shape[1] != self._dims:
            raise RuntimeError(
                f"the embedder makes {found.shape[1]} numbers, its configuration says {self._dims}"
            )
        return np.asarray(found, dtype=np.float32)


def _batches(items: Sequence[tuple[bytes, str]]) -> Iterator[Sequence[tuple[bytes, str]]]:
    for start in range(0, len(items), BATCH_TEXTS):
        yield items[start : start + BATCH_TEXTS]


def _keep(cached: "OrderedDict[bytes, Any]", key: bytes, value: bytes | None) -> None:
    """Store the newest entry and forget the oldest beyond MAX_CACHED."""
    cached[key] = value
    cached.move_to_end(key)
    if len(cached) > MAX_CACHED:
        cached.popitem(last=False)
