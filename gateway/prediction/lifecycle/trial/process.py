"""The trial process: loads the version on stdin and predicts with it, within narrow bounds.

`--model-hash HASH --dims N --cpu-s N [--embedder ID]`. It writes a `TrialResult` as JSON to stdout,
and may die at any time.
"""

import argparse
import os
import resource
import sys
from typing import Final

import msgspec
import numpy as np

from gateway.errors import PredictorRefused, shortened
from gateway.prediction.adaptation.adaptation import Adaptation
from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.features.text_encoder import TEXT_DIMS
from gateway.prediction.lifecycle.trial.trial import TrialResult
from gateway.prediction.model.artefact import Artefact, decode
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.model.length_model import LengthModel
from gateway.quantiles import LEVELS
from models.base import new_id

MAX_APPS: Final = 1_000  # of the version, each with and without embeddings
MAX_LOG_TOKENS: Final = 40.0  # beyond it a length is no number of tokens
MEMORY_BYTES: Final = 8 << 30  # of addresses, most of which libraries reserve
NICENESS: Final = 10  # live requests take precedence


def trial_inputs(artefact: Artefact, dims: int) -> ModelInputs:
    """Inputs of the version's apps and of one that it does not know, with embeddings and without.

    `dims` is the size of an embedding.
    """
    apps = [*list(artefact.lines)[:MAX_APPS], new_id()]
    rows = 2 * len(apps)
    random = np.random.default_rng(0)
    features = np.zeros((rows, len(NAMES)), dtype=np.float32)
    features[:, USER_INPUT_COLUMN] = random.uniform(0, 8, rows)
    sentences = random.normal(size=(rows, dims)).astype(np.float32)
    sentences[len(apps) :] = np.nan
    return ModelInputs(
        apps=[*apps, *apps],
        features=features,
        instructions=random.normal(size=(1, dims)).astype(np.float32),
        instruction_of=np.zeros(rows, dtype=np.intp),
        text=random.normal(size=(rows, TEXT_DIMS)).astype(np.float32),
        sentences=sentences,
    )


def try_version(
    stored: bytes, *, model_hash: str, dims: int, embedder: str | None = None
) -> str | None:
    """What fails of a version; None if it can be used. PredictorRefused as of `decode`."""
    artefact = decode(stored, model_hash=model_hash, embedder=embedder)
    inputs = trial_inputs(artefact, dims)
    model = LengthModel(artefact)
    model.predict(inputs.rows(slice(1)))  # few rows are scored by other code
    predicted = model.predict(inputs)
    quantiles = predicted.quantiles
    if quantiles.shape != (len(inputs), len(LEVELS)):
        return f"it predicts {quantiles.shape[1:]} numbers, not {len(LEVELS)}"
    sane = (np.abs(quantiles) < MAX_LOG_TOKENS).all() and np.isfinite(predicted.mean).all()
    if not sane:
        return "it predicts what is no length"
    adaptation = Adaptation(artefact.lines, artefact.scores)
    levels = tuple(quantiles[0].tolist())
    served = adaptation.serve(inputs.apps[0], float(inputs.log_uil[0]), levels, 1_000)
    return None if np.isfinite(served).all() else "its calibration makes no length of a prediction"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Try a predictor version.")
    parser.add_argument("--model-hash", required=True, help="hash of the served model")
    parser.add_argument("--dims", type=int, required=True, help="size of an embedding")
    parser.add_argument("--embedder", help="id of the model that makes the embeddings")
    parser.add_argument("--cpu-s", type=int, required=True, help="most processor time")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (arguments.cpu_s, arguments.cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(NICENESS)
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a printing library cannot corrupt it
    try:
        failed = try_version(
            sys.stdin.buffer.read(),
            model_hash=arguments.model_hash,
            dims=arguments.dims,
            embedder=arguments.embedder,
        )
        result = TrialResult(failed=failed)
    except PredictorRefused as refused:
        result = TrialResult(refused=refused.message)
    except Exception as error:  # noqa: BLE001  whatever it is, the version cannot be used
        result = TrialResult(failed=shortened(f"{type(error).__name__}: {error}"))
    os.write(output, msgspec.json.encode(result))


if __name__ == "__main__":
    main()
