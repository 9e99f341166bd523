"""What other vectors of a text would cost, and what they would be worth: τ by the product's fit."""

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
from benchmarks.p2.version import Version, fit_on
from gateway.evaluation.arrivals import EvaluationRequests
from gateway.prediction.expectation import expected_log
from gateway.prediction.features.text_encoder import MEANING, SKETCH
from gateway.prediction.model.length_model import LengthModel
from gateway.prediction.training.scorecard import kendall_tau, rms
from gateway.quantiles import MEDIAN

TOKENS: Final = (32, 64)
NONE: Final = "cues alone"
STATIC: Final = "cues, meaning"
OURS: Final = "cues, meaning, sketch (ours)"

Vectors = NDArray[np.float32]
Change = Callable[[EvaluationRequests], Vectors]
Tell = Callable[[str], None]


class Worth(Struct, frozen=True):
    """Of a text vector, on the test lines, all apps together."""

    name: str
    tau: float
    log_rmse_mean: float


def worths(version: Version, threads: int, progress: Tell) -> Iterator[Worth]:
    """Each vector's worth; the model is fitted anew for all but our own."""
    for name, change in _changes(threads, progress).items():
        progress(f"fitting with {name}")
        test = replace(version.test.inputs, text=change(version.test))
        model = version.model
        if name != OURS:
            train = replace(version.train.inputs, text=change(version.train))
            model = LengthModel(fit_on(train, version.train.tokens, threads))
        quantiles = model.predict(test).quantiles
        yield Worth(
            name,
            kendall_tau(version.test.tokens, quantiles[:, MEDIAN]),
            rms(np.log1p(version.test.tokens) - expected_log(np.exp(quantiles))),
        )


def minilm_name(tokens: int) -> str:
    """What the vector of the first tokens is called."""
    return f"cues, MiniLM of {tokens} tokens"


def _changes(threads: int, progress: Tell) -> dict[str, Change]:
    def minilm_of(tokens: int) -> Change:
        return lambda requests: _instead(
            requests,
            minilm_vectors([each.input for each in requests.lines], tokens, threads, progress),
        )

    return {
        NONE: lambda requests: _instead(requests, None),
        STATIC: lambda requests: _instead(requests, requests.inputs.text[:, MEANING]),
        OURS: lambda requests: requests.inputs.text,
        **{minilm_name(tokens): minilm_of(tokens) for tokens in TOKENS},
    }


def _instead(requests: EvaluationRequests, meaning: Vectors | None) -> Vectors:
    """The requests' text vectors without a sketch and with another meaning, or none."""
    text = requests.inputs.text.copy()
    text[:, SKETCH] = 0.0
    text[:, MEANING] = 0.0 if meaning is None else meaning
    return text


def minilm_vectors(texts: Sequence[str], tokens: int, threads: int, progress: Tell) -> Vectors:
    """MiniLM's vector of each text cut to so many tokens; kept in .bench, for it takes minutes."""
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
