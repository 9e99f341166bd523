"""The real predictor process, and a fitted version's bytes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest

from gateway.database.connection import Database
from gateway.database.errors import Sessions, transaction
from gateway.history.audit import note
from gateway.prediction.features.embedder_model import packaged_embedder
from gateway.prediction.features.features import FEATURE_VERSION, NAMES, USER_INPUT_COLUMN
from gateway.prediction.features.text_encoder import TEXT_DIMS
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.model.artefact import checksum, encode
from gateway.prediction.model.inputs import ModelInputs
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.prediction.training.fitting import make_version
from gateway.prediction.training.samples import Samples
from models import Predictor
from tests.conftest import PATIENCE_S

MODEL, MODEL_HASH = "demo", "abc"
DIMS = 384  # of the packaged embedder


@pytest.fixture(scope="session")
async def predictor(database: Database) -> AsyncIterator[LengthPredictor]:
    """A length predictor with its process and a budget that tests do not exceed."""
    predictor = LengthPredictor(
        model=MODEL, model_hash=MODEL_HASH, budget_s=PATIENCE_S, sessions=database.sessions
    )
    await predictor.start()
    await predictor.ready()
    yield predictor
    await predictor.close()


class StockedRegistry(Registry):
    """A registry with versions that no training run made."""

    async def add(self, version: Predictor) -> Predictor:
        """Store a version as inactive."""
        version.checksum = checksum(version.artefact)
        async with transaction(self._sessions) as session:
            session.add(version)
            await session.flush()
            note(session, version.created_by, "predictor.stored", version.id)
        return version


@pytest.fixture
def registry(sessions: Sessions) -> StockedRegistry:
    return StockedRegistry(sessions)


@pytest.fixture
async def runs(sessions: Sessions, postgres_url: str) -> AsyncIterator[TrainingRuns]:
    runs = TrainingRuns(sessions, model=MODEL, model_hash=MODEL_HASH, database_url=postgres_url)
    yield runs
    await runs.close()


@pytest.fixture(scope="session")
def artefact() -> bytes:
    """A version fitted on 120 rows of one app whose answers are as long as its inputs."""
    return fitted_version(120)


@pytest.fixture(scope="session")
def reading_artefact() -> bytes:
    """One that reads embeddings of the packaged embedder: of 400 rows, where they matter."""
    return fitted_version(400, by_sentence=0.5)


def fitted_version(rows: int, by_sentence: float = 0.0) -> bytes:
    """A version of one app; `by_sentence` is what the embedding adds to the log length."""
    random = np.random.default_rng(1)
    features = np.zeros((rows, len(NAMES)), dtype=np.float32)
    features[:, USER_INPUT_COLUMN] = random.uniform(2, 5, rows)
    sentences = random.normal(size=(rows, DIMS)).astype(np.float32)
    sentences[:, 0] = 40 * np.sign(sentences[:, 0])
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    log_lengths = features[:, USER_INPUT_COLUMN] + by_sentence * np.sign(sentences[:, 0])
    samples = Samples(
        inputs=ModelInputs(
            apps=[UUID(int=1)] * rows,
            features=features,
            instructions=np.full((1, DIMS), DIMS**-0.5, dtype=np.float32),
            instruction_of=np.zeros(rows, dtype=np.intp),
            text=random.normal(size=(rows, TEXT_DIMS)).astype(np.float32),
            sentences=sentences,
        ),
        tokens=np.round(np.exp(log_lengths + random.normal(0, 0.1, rows))),
        censored=np.zeros(rows, dtype=np.bool_),
        max_tokens=np.full(rows, 2_000.0),
        served=np.ones((rows, 6)),
        arrived=[datetime.now(UTC)] * rows,
    )
    judged = make_version(
        samples,
        model=MODEL,
        model_hash=MODEL_HASH,
        embedder=packaged_embedder().id,
        active=None,
        threads=1,
    )
    return encode(judged.artefact)


@pytest.fixture
def a_version(artefact: bytes) -> Callable[..., Predictor]:
    """Makes a version to be stored; any column can be given."""

    def build(**given: object) -> Predictor:
        columns: dict[str, object] = {
            "model": MODEL,
            "model_hash": MODEL_HASH,
            "feature_version": FEATURE_VERSION,
            "artefact": artefact,
            "metrics": {},
            "rows": 120,
            "created_by": "test",
        }
        return Predictor(**{**columns, **given})

    return build


@pytest.fixture(scope="session")
def a_prediction_request() -> Callable[..., PredictionRequest]:
    """Makes a prediction request; any field can be given."""

    def build(user_input: str = "one two three", **given: object) -> PredictionRequest:
        fields: dict[str, object] = {
            "tenant": UUID(int=1),
            "app": UUID(int=1),
            "end_user": None,
            "instruction": "Copy the text.",
            "user_input": user_input,
            "user_input_tokens": len(user_input.split()),
            "prompt_tokens": len(user_input.split()) + 5,
            "max_tokens": 500,
            "temperature": 0.0,
            "top_p": 1.0,
        }
        return PredictionRequest(**{**fields, **given})  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """Waits until a condition holds, up to PATIENCE_S."""

    async def wait(holds: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < until, "the condition never held"
            await asyncio.sleep(0.02)

    return wait
