"""Synthetic samples, and a version fitted on them once per session."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from gateway.prediction.features.features import NAMES, USER_INPUT_COLUMN
from gateway.prediction.features.text_encoder import MEANING, TEXT_DIMS
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.training.fitting import JudgedVersion, make_version
from gateway.prediction.training.samples import Samples

RATIOS = (4.0, 1.0, 0.25)
DIMS = 24  # of an embedding
EMBEDDER = "test@1"


def synthetic_samples(rows: int, seed: int) -> Samples:
    """Three input-proportional apps in turn; a dimension of the meaning affects lengths too.

    So does one of the sentence embeddings, which every tenth row lacks.
    """
    random = np.random.default_rng(seed)
    features = np.zeros((rows, len(NAMES)), dtype=np.float32)
    features[:, USER_INPUT_COLUMN] = random.uniform(2, 5, rows)
    text = random.normal(size=(rows, TEXT_DIMS)).astype(np.float32)
    meaning_axis = text[:, MEANING.start]
    meaning_axis[:] = 20 * np.sign(meaning_axis)
    app_of = np.arange(rows) % len(RATIOS)
    sentences = random.normal(size=(rows, DIMS)).astype(np.float32)
    sentences[:, 0] = 8 * np.sign(sentences[:, 0])
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    log_lengths = (
        np.log(np.array(RATIOS)[app_of])
        + features[:, USER_INPUT_COLUMN]
        + 0.02 * meaning_axis
        + 0.15 * np.sign(sentences[:, 0])
        + random.normal(0, 0.1, rows)
    )
    sentences[::10] = np.nan
    started_at = datetime(2026, 1, 1, tzinfo=UTC)
    return Samples(
        inputs=ModelInputs(
            apps=[UUID(int=int(app) + 1) for app in app_of],
            features=features,
            instructions=np.eye(len(RATIOS), DIMS, dtype=np.float32),
            instruction_of=app_of,
            text=text,
            sentences=sentences,
        ),
        tokens=np.maximum(np.round(np.exp(log_lengths)), 1.0),
        censored=np.zeros(rows, dtype=np.bool_),
        max_tokens=np.full(rows, 2_000.0),
        served=np.tile([2.0, 7.0, 45.0, 300.0, 900.0, 1_400.0], (rows, 1)),
        arrived=[started_at + timedelta(seconds=row) for row in range(rows)],
    )


@pytest.fixture(scope="session")
def samples() -> Samples:
    return synthetic_samples(600, seed=1)


@pytest.fixture(scope="session")
def new_samples() -> Samples:
    """Samples of the same apps that no version was fitted on."""
    return synthetic_samples(300, seed=7)


@pytest.fixture(scope="session")
def judged(samples: Samples) -> JudgedVersion:
    return make_version(
        samples, model="demo", model_hash="abc", embedder=EMBEDDER, active=None, threads=1
    )
