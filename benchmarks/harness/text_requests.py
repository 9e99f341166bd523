"""Real texts as requests to replay, each with a predicted length: LMaaS's own, or Magnus's."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.harness.paths import CACHE, ROOT
from gateway.evaluation.arrivals import RequestBuilder
from gateway.evaluation.corpus import FILE_SUFFIXES, Corpus, read_corpus
from gateway.evaluation.experiment import OURS, EvaluationOptions, EvaluationRun, run
from gateway.evaluation.lengths import count_words
from gateway.evaluation.magnus import point_predictions
from gateway.evaluation.sentences import SentenceEmbedder
from gateway.evaluation.vectors import TextVectors
from gateway.quantiles import LEVELS, Floats
from gateway.replay.workload.workload import Workload

PREDICTION_CODE: Final = ("gateway/prediction", "gateway/evaluation")  # what predictions depend on
FOLDER: Final = CACHE / "replay"
EMBEDDINGS: Final = CACHE / "magnus"


def text_requests(data: Path, threads: int, say: Callable[[str], None]) -> Workload:
    """The valid lines of a folder, all at time 0, with lengths in words.

    A prompt has the words of its instruction and of its input.

    Predictions are P1's without history: trained on the train lines, and for each line corrected
    and calibrated by the lines before it. They are cached in `.bench` until texts or code change.
    """
    file = FOLDER / f"texts-{_digest(data)}.npz"
    if not file.exists():
        say("predicting the lengths of the valid lines")
        wanted = EvaluationOptions(lengths="words", threads=threads, cache=EMBEDDINGS)
        _write(run(read_corpus(data, data), wanted, TextVectors(), say), file)
    return _read(file)


def of_one_app(requests: Workload) -> Workload:
    """The same requests as of one app: for the order among them, without shares between apps."""
    return replace(requests, app=np.zeros_like(requests.app), apps=requests.apps[:1])


def with_published_predictions(
    requests: Workload, data: Path, threads: int, say: Callable[[str], None]
) -> Workload:
    """The requests of `text_requests` of the same folder, with Magnus's predictor as published.

    It is trained on the same lines. It predicts one number, which stands at every quantile level.
    The predictions are cached like those of `text_requests`; the first time in a checkout, the
    embeddings take ten minutes.
    """
    file = FOLDER / f"magnus-{_digest(data)}.npy"
    if not file.exists():
        say("predicting the lengths of the valid lines as Magnus does")
        found = _published_predictions(read_corpus(data, data), threads, say)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found)
    points = np.load(file).astype(np.float32)
    return requests.with_quantiles(np.repeat(points[:, None], len(LEVELS), axis=1))


def _published_predictions(corpus: Corpus, threads: int, say: Callable[[str], None]) -> Floats:
    """The predictions of the valid lines, (n,), in the order of `run`."""
    embedder = SentenceEmbedder(threads, EMBEDDINGS, say)
    builder = RequestBuilder(count_words, TextVectors(), embedder, history=False)
    train, test = builder.build(corpus.train), builder.build(corpus.test)
    return point_predictions(train, test, embedder=embedder, threads=threads)


def _write(done: EvaluationRun, file: Path) -> None:
    prompts = count_words([line.instruction for line in done.lines]) + count_words(
        [line.input for line in done.lines]
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        file,
        prompt_tokens=np.maximum(prompts, 1),
        generation_tokens=done.tokens.astype(np.int64),
        quantiles=np.exp(done.forecasts[OURS].log_quantiles),
        apps=done.names,
    )


def _read(file: Path) -> Workload:
    with np.load(file) as arrays:
        names, numbers = np.unique(arrays["apps"], return_inverse=True)
        return Workload.of(
            np.zeros(len(numbers)),
            arrays["prompt_tokens"],
            arrays["generation_tokens"],
            quantiles=arrays["quantiles"],
            app=numbers,
            apps=names.tolist(),
        )


def _digest(data: Path) -> str:
    """A digest of the texts and of the code that predicts."""
    texts = (
        (path for path in data.iterdir() if path.name.endswith(FILE_SUFFIXES))
        if data.is_dir()
        else ()
    )
    code = (path for folder in PREDICTION_CODE for path in (ROOT / folder).rglob("*.py"))
    digest = sha256()
    for path in (*sorted(texts), *sorted(code)):
        digest.update(path.name.encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
