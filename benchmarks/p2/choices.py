"""Alternative text vectors: their cost, and the prediction quality of the model fitted on them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks.harness.paths import CACHE
from benchmarks.p2.parts import minilm
from benchmarks.p2.version import FittedVersion, fit_on
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.evaluation.sentences import Progress
from gateway.prediction.expectation import expected_log
from gateway.prediction.features.text_encoder import MEANING, SKETCH
from gateway.prediction.model.length_model import LengthModel
from gateway.prediction.training.scorecard import kendall_tau, rms
from gateway.quantiles import MEDIAN

MINILM_TOKENS: Final = (32, 64)
CUES_ONLY: Final = "cues alone"
CUES_AND_MEANING: Final = "cues, meaning"
PRODUCT_VECTOR: Final = "cues, meaning, sketch (ours)"

Vectors = NDArray[np.float32]
VectorChange = Callable[[EvaluationRequests], Vectors]


class VectorQuality(Struct, frozen=True):
    """Prediction quality with a text vector, on the test lines of all apps."""

    name: str
    tau: float
    log_rmse_mean: float


def vector_qualities(
    version: FittedVersion, threads: int, progress: Progress
) -> Iterator[VectorQuality]:
    """The quality of each vector; the model is refitted for all but the product's."""
    for name, change in _changes(threads, progress).items():
        progress(f"fitting with {name}")
        test = replace(version.test.inputs, text=change(version.test))
        model = version.model
        if name != PRODUCT_VECTOR:
            train = replace(version.train.inputs, text=change(version.train))
            model = LengthModel(fit_on(train, version.train.tokens, threads))
        quantiles = model.predict(test).quantiles
        yield VectorQuality(
            name,
            kendall_tau(version.test.tokens, quantiles[:, MEDIAN]),
            rms(np.log1p(version.test.tokens) - expected_log(np.exp(quantiles))),
        )


def minilm_name(tokens: int) -> str:
    """The name of the vector of MiniLM on the first tokens."""
    return f"cues, MiniLM of {tokens} tokens"


def _changes(threads: int, progress: Progress) -> dict[str, VectorChange]:
    def minilm_of(tokens: int) -> VectorChange:
        return lambda requests: _replaced(
            requests,
            minilm_vectors([each.input for each in requests.lines], tokens, threads, progress),
        )

    return {
        CUES_ONLY: lambda requests: _replaced(requests, None),
        CUES_AND_MEANING: lambda requests: _replaced(requests, requests.inputs.text[:, MEANING]),
        PRODUCT_VECTOR: lambda requests: requests.inputs.text,
        **{minilm_name(tokens): minilm_of(tokens) for tokens in MINILM_TOKENS},
    }


def _replaced(requests: EvaluationRequests, meaning: Vectors | None) -> Vectors:
    """The requests' text vectors without sketch and with another meaning, or with zeros."""
    text = requests.inputs.text.copy()
    text[:, SKETCH] = 0.0
    text[:, MEANING] = 0.0 if meaning is None else meaning
    return text


def minilm_vectors(texts: Sequence[str], tokens: int, threads: int, progress: Progress) -> Vectors:
    """MiniLM's vectors of texts cut to `tokens`; cached in .bench, since they take minutes."""
    digest = sha256("\0".join(texts).encode()).hexdigest()[:16]
    file = CACHE / "p2" / f"minilm-{tokens}-{digest}.npy"
    if not file.exists():
        progress(f"encoding {len(texts)} texts by MiniLM, {tokens} tokens each: minutes")
        encoder = minilm(threads)
        encoder.max_seq_length = tokens
        found = encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.npy")
        np.save(part, np.asarray(found, np.float16))
        part.rename(file)
    return np.asarray(np.load(file), dtype=np.float32)
