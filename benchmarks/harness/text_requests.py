"""Real texts as requests to replay, each with the length predicted by LMaaS's own model."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.harness.paths import CACHE, ROOT
from gateway.evaluation.corpus import FILE_SUFFIXES, read_corpus
from gateway.evaluation.experiment import OURS, EvaluationOptions, EvaluationRun, run
from gateway.evaluation.lengths import count_words
from gateway.evaluation.vectors import TextVectors
from gateway.replay.workload.workload import Workload

PREDICTION_CODE: Final = ("gateway/prediction", "gateway/evaluation")  # what predictions depend on
FOLDER: Final = CACHE / "replay"


def text_requests(data: Path, threads: int, say: Callable[[str], None]) -> Workload:
    """The valid lines of a folder, all at time 0, with lengths in words.

    A prompt has the words of its instruction and of its input.

    Predictions are P1's without history: trained on the train lines, and for each line corrected
    and calibrated by the lines before it. They are cached in `.bench` until texts or code change.
    """
    file = FOLDER / f"texts-{_digest(data)}.npz"
    if not file.exists():
        say("predicting the lengths of the valid lines")
        wanted = EvaluationOptions(lengths="words", threads=threads, cache=CACHE / "magnus")
        _write(run(read_corpus(data, data), wanted, TextVectors(), say), file)
    return _read(file)


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
